"""Both servers of the package on loopback, and connections of which every byte is known."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[1]
sys.path += [str(TESTS / "proxy"), str(TESTS / "server")]

from live_server import live  # noqa: E402
from proxied import SMALL, proxy, upstream  # noqa: E402
from scripted import ScriptedHost  # noqa: E402

from waiting import PATIENCE  # noqa: E402

Address = tuple[str, int]


class Served:
    """A server under test, and what got through to what lies behind it."""

    def __init__(self, name: str, url: str, reached: Callable[[], int]) -> None:
        self.name, self.url, self.reached = name, url, reached
        host, port = url.removeprefix("http://").split(":")
        self.address: Address = (host, int(port))

    def send(self, *pieces: bytes, seconds: float = PATIENCE) -> bytes:
        """Everything that the server answers before it closes, or until it is silent."""
        with self.connect(seconds) as raw:
            for piece in pieces:
                raw.sendall(piece)
            return read_all(raw)

    def connect(self, seconds: float = PATIENCE) -> socket.socket:
        raw = socket.create_connection(self.address)
        raw.settimeout(seconds)
        return raw


def read_all(raw: socket.socket) -> bytes:
    """The bytes up to the end of the connection. Raises TimeoutError for a connection that stays open."""
    parts = []
    while part := raw.recv(65536):
        parts.append(part)
    return b"".join(parts)


@contextmanager
def serving(**settings: Any) -> Iterator[Served]:
    host = ScriptedHost()
    with live(host, **settings) as url:
        yield Served("serve", url, lambda: len(host.asks))


@contextmanager
def proxying(idle_seconds: float = 20.0, prefix: str = "", **options: Any) -> Iterator[Served]:
    with upstream() as up, proxy(up, replace(SMALL, **options), prefix, idle_seconds) as url:
        served = Served("proxy", url, lambda: len(up.seen))
        served.up = up  # type: ignore[attr-defined]
        yield served


SERVERS: dict[str, Callable[..., AbstractContextManager[Served]]] = {"serve": serving, "proxy": proxying}
