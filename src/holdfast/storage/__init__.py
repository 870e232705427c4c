"""The storage of bytes: objects by their content, logs of events, and the file systems below them.

Start with `store.py`; `files.py` is the one writer of local files, `backends.py` reaches other file systems.
"""
