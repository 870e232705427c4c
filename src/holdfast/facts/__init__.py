"""The facts of a session: literals, passages and rules, the places where they stand, and what became of them.

Start with `session_facts.collect_facts`. `fact` has the values, `literals` the table of patterns (a date is one row),
`prohibitions` alone decides what a user asks for and forbids, `lifts` and `supersession` say what ends a fact,
`notes` and `section` write facts into a compacted session and read them back.
"""
