"""Latent methods that pay by docs/log.md, one a file, called as in the registry; start with `informed.py`, the default.

`baselines/` has the others.
"""
