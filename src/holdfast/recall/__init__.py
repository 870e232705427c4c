"""Memory that an agent can search: the raw turns of its session, whatever became of them since.

Start with `tools.py`, the tools that MCP, the proxy and the server offer. `pages` are turns as numbered lines, `index`
ranks lines, `search` and `read` answer within a few hundred tokens, `sources/` finds a caller's sessions.
"""
