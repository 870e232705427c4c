"""The body of a request as it arrives: read whole up to a limit, or passed on piece by piece; and whether its sender
is still there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

Receive = Callable[[], Awaitable[dict[str, Any]]]


class Gone(Exception):
    """The client hung up before its request was whole."""


class Incoming:
    """One request's body; every piece is taken once."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._held: list[bytes] = []
        self._whole = asyncio.Event()

    async def read(self, most: int) -> bytes | None:
        """The whole body; None where it has more than `most` bytes: then `pieces` gives it from its start."""
        size = 0
        async for piece in self._arriving():
            self._held.append(piece)
            size += len(piece)
            if size > most:
                return None
        return b"".join(self._held)

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body from its start, as it comes. Raises Gone."""
        while self._held:
            yield self._held.pop(0)
        async for piece in self._arriving():
            yield piece

    async def gone(self) -> None:
        """Returns when the client hangs up after its request."""
        await self._whole.wait()
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def _arriving(self) -> AsyncIterator[bytes]:
        while not self._whole.is_set():
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise Gone
            if not message.get("more_body"):
                self._whole.set()
            if message.get("body"):
                yield message["body"]
