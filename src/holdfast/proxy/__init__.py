"""In front of an API: the same wire, a shorter history, and the original request if anything of ours fails.

Start reading at `gateway.Gateway`. headers.py (every header), wires.py (the history in a body), caller.py (what a
request becomes), journal.py (its raw turns) and turn_pages.py (how they are read), bill.py and tariffs.py (what pays),
recent_histories.py (what moves from request to request), summary_requests.py (what passes raw), breakpoints.py (cache
breakpoints), decoding.py, upstream.py, conversations.py and page/ (what the page shows).
"""
