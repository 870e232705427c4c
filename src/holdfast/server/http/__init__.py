"""The HTTP application around a host. Start reading at `app.create_app`, then limits.py, which every request passes.

auth.py (keys), json_body.py (bodies), answer_stream.py and sse.py (answers), errors.py (statuses and shapes),
metrics.py, health.py, session_endpoints.py (our own paths), live_page.py and docs_page.py (pages).
"""
