"""The server as its clients meet it: uvicorn on a free port of this machine."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
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


def until(happened: Callable[[], bool], seconds: float = 5) -> None:
    """Wait for something that another thread does; fail where it never does."""
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.005)
