"""HTTP that `serve` and `proxy` share. Start reading at `front_door.check_request`, which every request passes.

front_door.py (names, origins, framing, paths), limiter.py (requests at once), listener.py (connections and time-outs),
request_error.py (the error that carries a status).
"""
