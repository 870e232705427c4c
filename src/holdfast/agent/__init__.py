"""A lean coding agent with compaction inside: a loop, tools, sandboxes, contexts and trajectories.

Start with `loop.py`.
"""
