"""The server as its clients meet it: uvicorn on a free port of this machine."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI


@contextmanager
def listening(app: FastAPI) -> Iterator[str]:
    """The URL of a server for as long as the block runs."""
    with socket.create_server(("127.0.0.1", 0)) as door:
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="on"))
        running = threading.Thread(target=server.run, kwargs={"sockets": [door]})
        running.start()
        try:
            # the socket listens already: a request that comes early waits in its queue
            yield f"http://127.0.0.1:{door.getsockname()[1]}"
        finally:
            server.should_exit = True
            running.join(10)
