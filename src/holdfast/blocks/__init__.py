"""A session as token ids through the model's chat template, cut into blocks by turn and kind.

Start with `render.py`. `block.py` is the value, `messages.py` writes turns as chat messages, `message_offsets.py` finds
each message in the rendered text.
"""
