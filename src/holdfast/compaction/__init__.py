"""Latent compaction of a whole session, inside the model.

Start with `compact.py`. `plan.py` says which blocks stay, `partition.py` cuts a session into parts, `walk.py` compacts
them. `recompact.py` tightens and joins contexts, `subagents.py` forks and merges, `calibrate.py` learns head shares.
"""
