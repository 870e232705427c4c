"""The body of a request as it arrives: read whole up to a limit, or passed on piece by piece."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from holdfast.web.request_error import RequestError

Receive = Callable[[], Awaitable[dict[str, Any]]]


class ClientGone(Exception):
    """The client hung up before its request was whole."""


class RequestBody:
    """The body of one request; every piece is taken once."""

    def __init__(self, receive: Receive, seconds: float) -> None:
        """Takes the `seconds` that a body may take if it is read whole, and may be silent if it is passed on."""
        self._receive, self._seconds = receive, seconds
        self._pieces: list[bytes] = []
        self._whole = asyncio.Event()

    async def read(self, most: int) -> bytes | None:
        """Returns the whole body; None for one of more than `most` bytes, which `pieces` then gives from its start.

        Raises ClientGone, and RequestError with 408 for a body that does not arrive in time.
        """
        size = 0
        try:
            async with asyncio.timeout(self._seconds):
                while (piece := await self._next()) is not None:
                    self._pieces.append(piece)
                    size += len(piece)
                    if size > most:
                        return None
        except TimeoutError:
            raise self._late() from None
        return b"".join(self._pieces)

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yields the body from its start, as it comes. Raises as `read` does."""
        while self._pieces:
            yield self._pieces.pop(0)
        while True:
            try:
                async with asyncio.timeout(self._seconds):
                    piece = await self._next()
            except TimeoutError:
                raise self._late() from None
            if piece is None:
                return
            yield piece

    async def wait_for_disconnect(self) -> None:
        """Returns when the client hangs up after its request."""
        await self._whole.wait()
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def _next(self) -> bytes | None:
        """Returns the next piece, or None behind the last."""
        while not self._whole.is_set():
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            if not message.get("more_body"):
                self._whole.set()
            if message.get("body"):
                return bytes(message["body"])
        return None

    def _late(self) -> RequestError:
        message = f"the body did not arrive in {self._seconds:g} seconds; send it again"
        return RequestError(message, status=408, close=True)
