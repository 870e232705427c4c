"""Engines: a model that reads and answers, in this process or behind an API.

Start with `kv_context.py`, the running memory, and `local.py`, which scores and generates over it. `chat.py`,
`remote.py` and `routing.py` are models that answer messages.
"""
