"""A live session: turns are appended, answers generated, old turns compacted in place."""
