"""Methods that compact a session, by name: `registry.py` has one row for each.

`latent/` works inside the model and keeps KV slots (start with `base.py`, then `eviction.py`), `text/` rewrites turns.
The other files are steps that latent methods share: reference queries, query batches, heads, surprisal's weight.
"""
