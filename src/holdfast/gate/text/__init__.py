"""The gate of text compaction: no fact is lost in silence, and no claim stays that the session does not bear out.

Start with `gate.check_draft`. `claims` strikes false sentences from a model's summary.
"""
