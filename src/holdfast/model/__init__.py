"""A model as Holdfast runs it: weights, attention over slots, RoPE, and the slots themselves.

Start with `load.py`. `family.py` lists the architectures, `rope.py` rotates, `slots.py` and `quantized_slots.py` hold
KV pairs, `attention.py` attends to them.
"""
