"""The middleware that every request passes before any route: who asks, how often, how much, and how errors leave."""

from __future__ import annotations

import asyncio
import logging
import math
import re
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from holdfast.errors import Busy
from holdfast.server.http import auth, errors
from holdfast.server.http.json_body import read_json
from holdfast.server.http.metrics import Metrics
from holdfast.server.http.settings import Settings
from holdfast.web.front_door import check_request
from holdfast.web.limiter import ConcurrencyLimiter
from holdfast.web.request_error import RequestError

log = logging.getLogger("holdfast.server")
HUNG_UP = 499  # as nginx logs it
WARNING_HEADER = b"x-holdfast-warning"
WARNING_LENGTH = 1_000  # characters of one
EVENTS = "/holdfast/events"
"""The path of streams without an end, which have places of their own."""


class ClientGone(Exception):
    """The client hung up, or takes nothing more."""


class Limits:
    """All limiters of a server: requests being answered, bodies that arrive, and streams of events."""

    def __init__(self, settings: Settings) -> None:
        most, per_key = settings.concurrency, settings.per_key
        self.answering = ConcurrencyLimiter(most, per_key, "requests")
        self.arriving = ConcurrencyLimiter(most, per_key, "bodies of requests")
        self.following = ConcurrencyLimiter(settings.event_streams, settings.event_streams_per_key, "event streams")
        self.rate = RateLimiter(settings.per_minute)

    def of(self, path: str) -> ConcurrencyLimiter:
        """Returns the limiter of the answer to a path."""
        return self.following if path == EVENTS else self.answering


class Guard:
    """ASGI middleware; `request.state.key` is the digest of the caller's key from here on."""

    def __init__(self, app: ASGIApp, settings: Settings, metrics: Metrics, limits: Limits) -> None:
        self.app, self.settings, self.metrics, self.limits = app, settings, metrics, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        state["key"], state["warnings"] = "", []
        answer, began = Answer(send, self.settings.stalled_seconds, state["warnings"]), time.perf_counter()
        try:
            await self._serve(scope, receive, answer)
        except ClientGone:
            answer.status = HUNG_UP
        except asyncio.CancelledError:  # the time for running answers is over
            await refuse(Busy("the server is stopping; send the request again later"), scope, receive, answer)
        except Exception as error:
            if errors.problem_of(error).status == 500:
                log.exception("%s %s", scope["method"], scope["path"])
            await refuse(error, scope, receive, answer)
        finally:
            self._count(scope, answer.status or HUNG_UP, time.perf_counter() - began)

    async def _serve(self, scope: Scope, receive: Receive, answer: Answer) -> None:
        check_request(scope, self.settings.own_names)  # type: ignore[arg-type]
        headers, path = Headers(scope=scope), scope["path"]
        key = scope["state"]["key"] = auth.admit(path, headers, self.settings)
        if auth.is_open(path):
            await self.app(scope, receive, answer.send)
            return
        self.limits.rate.take(key, time.monotonic())
        with self.limits.arriving.place(key):
            body = await self._body(headers, receive)
        with ExitStack() as places:
            places.enter_context(self.limits.of(path).place(key))
            places.enter_context(self.metrics.of(key).under_way.track_inprogress())
            answer.ending = places.close  # whoever has the whole answer may ask again at once
            scope["state"]["json"] = await read_json(body, headers, path, self.settings.messages)
            await serve_while_attended(self.app, scope, body, receive, answer)

    async def _body(self, headers: Headers, receive: Receive) -> bytes:
        """Returns the whole body; refuses one that is too long before it is read to its end."""
        most = self.settings.body_bytes
        length = headers.get("content-length", "")
        if length.isdigit() and len(length) < 20 and int(length) > most:
            raise _too_long(most)
        chunks: list[bytes] = []
        size, more = 0, True
        try:
            async with asyncio.timeout(self.settings.body_seconds):
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ClientGone
                    chunks.append(message.get("body", b""))
                    size, more = size + len(chunks[-1]), message.get("more_body", False)
                    if size > most:
                        raise _too_long(most)
        except TimeoutError:
            message_ = f"the body did not arrive in {self.settings.body_seconds:g} seconds; send it again"
            raise RequestError(message_, status=408, close=True) from None
        return b"".join(chunks)

    def _count(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "other")  # never the path itself: anyone can ask for any
        method = scope["method"] if scope["method"] in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE") else "other"
        metrics = self.metrics.of(scope["state"]["key"])
        metrics.requests.labels(method, route, str(status)).inc()
        if not auth.is_open(scope["path"]):
            metrics.seconds.observe(seconds)


async def refuse(error: Exception, scope: Scope, receive: Receive, answer: Answer) -> None:
    """Sends an error, unless an answer has begun."""
    if not answer.status:
        await errors.error_response(error, scope["path"])(scope, receive, answer.send)


class Answer:
    """An answer as it is sent, and its status; 0 before anything is sent."""

    def __init__(self, send: Send, patience: float, warnings: Sequence[str] = ()) -> None:
        """Takes the seconds of `patience` with a reader that takes nothing, and what its head is to warn of by then."""
        self._send, self.patience, self._warnings = send, patience, warnings
        self.status, self.whole = 0, False
        self.ending: Callable[[], None] = lambda: None
        """Called before the last piece is sent."""

    async def send(self, message: Message) -> None:
        """Sends a piece. Raises ClientGone if the reader takes nothing for too long."""
        self.status = message.get("status", self.status)
        if message["type"] == "http.response.start" and self._warnings:
            message = {**message, "headers": [*message.get("headers", ()), *warning_headers(self._warnings)]}
        self.whole = message["type"] == "http.response.body" and not message.get("more_body", False)
        if self.whole:
            self.ending()
        try:
            async with asyncio.timeout(self.patience):
                await self._send(message)
        except TimeoutError:
            raise ClientGone from None


def warning_headers(warnings: Iterable[str]) -> list[tuple[bytes, bytes]]:
    """Returns a header for each warning, in plain characters alone: names of tools are the client's."""
    lines = (re.sub(r"[^ -~]", "?", warning)[:WARNING_LENGTH] for warning in warnings)
    return [(WARNING_HEADER, line.encode("ascii")) for line in lines]


class RateLimiter:
    """A token bucket for each key: a minute's requests at most at once, and filled within a minute."""

    def __init__(self, per_minute: int | None) -> None:
        self.per_minute = per_minute
        self._buckets: dict[str, tuple[float, float]] = {}

    def take(self, key: str, now: float) -> None:
        """Counts a request at `now`, in seconds. Raises RequestError with 429 if the key has asked too often."""
        if self.per_minute is None:
            return
        if len(self._buckets) > 10_000:  # on loopback any key makes one; those of a minute ago are full again
            self._buckets = {key: (left, at) for key, (left, at) in self._buckets.items() if now - at < 60}
        left, at = self._buckets.get(key, (float(self.per_minute), now))
        left = min(self.per_minute, left + (now - at) * self.per_minute / 60)
        if left < 1:
            wait = math.ceil((1 - left) * 60 / self.per_minute)
            message = f"this key may ask {self.per_minute} times in a minute; try again in {wait} seconds"
            raise RequestError(message, status=429, retry_after=wait)
        self._buckets[key] = (left - 1, now)


async def serve_while_attended(app: ASGIApp, scope: Scope, body: bytes, receive: Receive, answer: Answer) -> None:
    """Runs the application for as long as the client is there. Raises ClientGone if it leaves before the end."""
    left = asyncio.Event()
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        if messages:
            return messages.pop()
        await left.wait()
        return {"type": "http.disconnect"}

    async def leave() -> None:
        while (await receive())["type"] != "http.disconnect":
            continue
        left.set()

    async def run() -> None:
        await app(scope, replay, answer.send)

    serving, watching = asyncio.ensure_future(run()), asyncio.ensure_future(leave())
    try:
        await asyncio.wait((serving, watching), return_when=asyncio.FIRST_COMPLETED)
        if not serving.done() and not answer.whole:  # a server also says "disconnect" once all is sent
            raise ClientGone
        await serving
    finally:
        serving.cancel()
        watching.cancel()
        await asyncio.gather(serving, watching, return_exceptions=True)


def _too_long(most: int) -> RequestError:
    message = f"the body is longer than the {most:,} bytes that this server reads; start it with a larger --max-body"
    return RequestError(message, status=413)
