"""The server on a free port of this machine, for as long as a block runs."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from holdfast.server.http.app import create_app
from holdfast.server.http.settings import Settings
from holdfast.server.protocol import Host
from holdfast.web.listener import configure
from waiting import until


@contextmanager
def live(host: Host, *, drain: int = 5, send_buffer: int | None = None, **settings: Any) -> Iterator[str]:
    """Its address, without a path."""
    app = create_app(host, chosen := Settings(**settings))
    config = configure(app, chosen.idle_seconds, log_config=None, timeout_graceful_shutdown=drain)
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        if send_buffer:
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
        thread = threading.Thread(target=server.run, name="loop", kwargs={"sockets": [taken]})
        thread.start()
        until(lambda: server.started)
        try:
            yield f"http://127.0.0.1:{taken.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
