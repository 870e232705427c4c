"""Probes for text-level compaction: what an agent can still answer from a session that was rewritten."""
