"""The live object: turns are appended, answers generated, the past compacted in place."""
