"""The append-only log beside a session: every compaction is an event."""
