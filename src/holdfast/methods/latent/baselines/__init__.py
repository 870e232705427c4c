"""Latent methods that do not pay by docs/log.md, or whose gain was never measured: what a new method is compared with.

One a file, called as in the registry. `truncate.py` and `random.py` are the floor of every table.
"""
