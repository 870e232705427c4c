"""Connections: HTTP/1.1 through h11, with time-outs for a client that opens one and sends no whole request.

uvicorn waits without end for the head of a first request, and for the rest of a body that was refused.
"""

from __future__ import annotations

import asyncio
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

IDLE_SECONDS = 20.0
"""Seconds for the head of a request to arrive, and for the rest of a body that nobody reads any more."""


class LingeringTransport:
    """A transport that half-closes while a body still arrives, so that its sender can read the answer.

    A plain close would reset the connection, and the answer would be lost with it.
    """

    def __init__(self, transport: asyncio.Transport, connection: TimedProtocol) -> None:
        self.inner, self._connection = transport, connection
        self.lingers = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def is_closing(self) -> bool:
        """Returns True from the first `close` on."""
        return self.lingers or self.inner.is_closing()

    def close(self) -> None:
        """Closes the connection, or its own side of it while a body arrives."""
        arriving = self._connection.conn.their_state is h11.SEND_BODY and self.inner.can_write_eof()
        if not arriving or self.is_closing():
            self.inner.close()
            return
        self.lingers = True
        self.inner.write_eof()
        self.inner.resume_reading()


class TimedProtocol(H11Protocol):
    """A connection that is closed if the next head, or the rest of a refused body, does not come in time."""

    idle_seconds = IDLE_SECONDS
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Starts the wait for the first head."""
        self._lingering = LingeringTransport(transport, self)
        super().connection_made(self._lingering)  # type: ignore[arg-type]
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Reads on, and looks again at what is waited for."""
        if not self._lingering.lingers:
            super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """Waits for the next head, or for the rest of a body."""
        super().on_response_complete()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends the wait."""
        self._stop()
        super().connection_lost(exc)

    def _watch(self) -> None:
        waiting = self.conn.their_state is h11.IDLE or self.conn.our_state is h11.DONE or self._lingering.lingers
        if not waiting:
            self._stop()
        elif self._timer is None:
            self._timer = self.loop.call_later(self.idle_seconds, self._lingering.inner.close)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def configure(app: Any, idle_seconds: float = IDLE_SECONDS, **options: Any) -> uvicorn.Config:
    """Returns uvicorn's configuration with these time-outs, without access log and without WebSockets."""
    protocol = type("Connection", (TimedProtocol,), {"idle_seconds": idle_seconds})
    return uvicorn.Config(app, http=protocol, ws="none", access_log=False, server_header=False, **options)
