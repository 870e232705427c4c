"""The sessions behind the wires. Start with `SessionHost` in host.py.

registry.py finds the session of a request (prefix_index.py) and decides which are in memory (lru.py);
compaction_queue.py compacts beside the answers, one at a time; views.py shows sessions; export.py carries one away.
"""
