"""The session as turns, of any agent and wire: read, written back, cut and judged. Knows no model.

Start with `turn` (the values), `read` and `write`. `formats` has one reader per session file format, `content` reads
message content, `draft` is a session that is rewritten, `activity` finds commands and files, `cuts` and `legality`
say what may be cut and sent.
"""
