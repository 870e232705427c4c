"""One file for each wire: chat.py, completions.py, messages.py (Anthropic), responses.py. Start reading at chat.py.

Each has the models of its requests, `read_request` (a GenerateRequest, made in a worker thread), and the answer whole
and as a stream. openai_common.py (sampling options), response_items.py and response_store.py serve responses.py.
"""
