"""The gate of text compaction: no fact is lost in silence, and no claim is made that the session does not bear out."""
