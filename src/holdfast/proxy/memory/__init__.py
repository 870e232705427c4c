"""Memory tools behind the proxy: added to requests, their calls answered here, the answer joined to one.

Start with `exchange.py`. A file for each wire says how its stream and its whole answer are joined; `source.py` is a
key's sessions in the journal; `hidden_messages.py` puts what was looked up back into later requests.
"""
