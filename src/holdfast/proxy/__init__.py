"""In front of any API: the same wire, a shorter history, and the original request if anything of ours fails.

Start reading at `gateway.Gateway`. headers.py (every header), wires.py (the history in a body), caller.py (what a
request becomes), breakpoints.py (cache breakpoints), upstream.py, conversations.py and page/ (what the page shows).
"""
