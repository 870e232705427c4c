"""Text compaction: a session is rewritten as text, in the file of the agent that wrote it."""
