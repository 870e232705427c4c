"""Compact contexts as values: segments of tokens, embeddings or KV slots. Nothing here runs a model.

Start with `segments.py`. `budget.py` and `allocation.py` say how many slots stay, `surgery.py` and `packing.py` pick
them, `cache.py` is transformers' cache over them, `holdfast_file.py` the `.holdfast` file.
"""
