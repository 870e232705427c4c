"""The gate of latent compaction: measures the facts that the compact memory lost, and repairs it.

Start with `gate.compress_through_gate`. `fact_tokens` finds the tokens of facts, `survival` measures their fall,
`repair` gives KV pairs back, `skill_check` guards against a memory that breaks unrelated skills.
"""
