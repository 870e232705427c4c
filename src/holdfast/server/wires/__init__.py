"""One file for each wire: chat.py, completions.py, messages.py (Anthropic), responses.py. Start reading at chat.py.

Each has the models of its requests, `read_request` (the request in the host's terms, read in a worker thread), and the
answer whole and as a stream. openai_common.py is for the first two, response_items.py and response_store.py the last.
"""
