"""Training of compressors: one loop with exact resume, data, objectives, checkpoints.

Start with `loop.py`.
"""
