"""What every request passes before any route: who asks, how often, how much; and what no route lets out."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from holdfast.errors import Busy
from holdfast.server.http import auth, errors
from holdfast.server.http.errors import Refused
from holdfast.server.http.metrics import Metrics
from holdfast.server.http.settings import Settings
from holdfast.transcript.document import Malformed, parse_json

log = logging.getLogger("holdfast.server")
LONG = 2**18  # bytes from which JSON is read beside the event loop
HUNG_UP = 499  # as nginx logs it
_ODD = re.compile(rb"\\u[dD][89a-fA-F]|NaN|Infinity")


class Gone(Exception):
    """The client hung up, or takes nothing more."""


class Guard:
    """ASGI middleware; `request.state.key` is the digest of the caller's key from here on."""

    def __init__(self, app: ASGIApp, settings: Settings, metrics: Metrics, slots: Slots) -> None:
        self.app, self.settings, self.metrics, self.slots = app, settings, metrics, slots
        self.rate = Rate(settings.per_minute)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        reply, began = Reply(send, self.settings.stalled_seconds), time.perf_counter()
        try:
            await self._serve(scope, receive, reply)
        except Gone:
            reply.status = HUNG_UP
        except asyncio.CancelledError:  # the time for running answers is over
            await refuse(Busy("the server is stopping; send the request again later"), scope, receive, reply)
        except Exception as error:
            if errors.problem_of(error).status == 500:
                log.exception("%s %s", scope["method"], scope["path"])
            await refuse(error, scope, receive, reply)
        finally:
            self._count(scope, reply.status or HUNG_UP, time.perf_counter() - began)

    async def _serve(self, scope: Scope, receive: Receive, reply: Reply) -> None:
        headers, path = Headers(scope=scope), scope["path"]
        key = auth.admit(path, headers, self.settings)
        scope.setdefault("state", {})["key"] = key
        if auth.is_open(path):
            await self.app(scope, receive, reply.send)
            return
        self.rate.take(key, time.monotonic())
        with ExitStack() as held:
            held.enter_context(self.slots.one())
            held.enter_context(self.metrics.under_way.track_inprogress())
            reply.ending = held.close  # whoever has the whole answer may ask again at once
            body = await checked(await self._body(headers, receive), headers, path)
            await attended(self.app, scope, body, receive, reply)

    async def _body(self, headers: Headers, receive: Receive) -> bytes:
        """The whole body. What is too long is refused before it is read to its end."""
        most = self.settings.body_bytes
        told = headers.get("content-length", "")
        if told.isdigit() and len(told) < 20 and int(told) > most:
            raise _too_long(most)
        chunks: list[bytes] = []
        size, more = 0, True
        try:
            async with asyncio.timeout(self.settings.body_seconds):
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise Gone
                    chunks.append(message.get("body", b""))
                    size, more = size + len(chunks[-1]), message.get("more_body", False)
                    if size > most:
                        raise _too_long(most)
        except TimeoutError:
            raise Refused(f"the body did not arrive in {self.settings.body_seconds:g} seconds", status=408) from None
        return b"".join(chunks)

    def _count(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "other")  # never the path itself: anyone can ask for any
        method = scope["method"] if scope["method"] in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE") else "other"
        self.metrics.requests.labels(method, route, str(status)).inc()
        if not auth.is_open(scope["path"]):
            self.metrics.seconds.observe(seconds)


async def refuse(error: Exception, scope: Scope, receive: Receive, reply: Reply) -> None:
    """Tell the client, unless it has been told something else already."""
    if not reply.status:
        await errors.response(error, scope["path"])(scope, receive, reply.send)


class Reply:
    """What is sent to the client, and the status that went with it; 0 before anything is sent."""

    def __init__(self, send: Send, patience: float) -> None:
        self._send, self.patience = send, patience
        self.status, self.whole = 0, False
        self.ending: Callable[[], None] = lambda: None
        """Called before the last piece is sent."""

    async def send(self, message: Message) -> None:
        """Raises Gone where the reader takes nothing for so many seconds."""
        self.status = message.get("status", self.status)
        self.whole = message["type"] == "http.response.body" and not message.get("more_body", False)
        if self.whole:
            self.ending()
        try:
            async with asyncio.timeout(self.patience):
                await self._send(message)
        except TimeoutError:
            raise Gone from None


class Slots:
    """How many requests may be under way at once."""

    def __init__(self, most: int) -> None:
        self.most, self.taken = most, 0

    @contextmanager
    def one(self) -> Iterator[None]:
        """Raises Busy where all are taken."""
        if self.taken >= self.most:
            raise Busy(f"{self.most} requests are under way, which is as many as this server takes; try again")
        self.taken += 1
        try:
            yield
        finally:
            self.taken -= 1


class Rate:
    """A token bucket for each key: a minute's requests at most at once, and filled within a minute."""

    def __init__(self, per_minute: int | None) -> None:
        self.per_minute = per_minute
        self._buckets: dict[str, tuple[float, float]] = {}

    def take(self, key: str, now: float) -> None:
        """Raises Refused with 429."""
        if self.per_minute is None:
            return
        if len(self._buckets) > 10_000:  # on loopback any key makes one; those of a minute ago are full again
            self._buckets = {key: (left, at) for key, (left, at) in self._buckets.items() if now - at < 60}
        left, at = self._buckets.get(key, (float(self.per_minute), now))
        left = min(self.per_minute, left + (now - at) * self.per_minute / 60)
        if left < 1:
            wait = math.ceil((1 - left) * 60 / self.per_minute)
            told = f"this key may ask {self.per_minute} times in a minute; try again in {wait} seconds"
            raise Refused(told, status=429, retry_after=wait)
        self._buckets[key] = (left - 1, now)


async def checked(body: bytes, headers: Headers, path: str) -> bytes:
    """A JSON body as every route can read it: not nested without end, without half characters and NaN.

    Raises Refused for what is no JSON, and for a body of another kind under /v1, where only JSON is read.
    """
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if not body:
        return body
    if not (kind == "application/json" or kind.endswith("+json")):
        if path.startswith("/v1/"):
            raise Refused(f"send Content-Type: application/json, not {kind[:80] or 'none'}", status=415)
        return body
    return await asyncio.to_thread(_clean, body) if len(body) > LONG else _clean(body)


def _clean(body: bytes) -> bytes:
    try:
        value = parse_json(body.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise Refused(f"the body is not UTF-8: byte {error.start} cannot stand there") from None
    except Malformed as error:
        raise Refused(f"the body is not JSON that can be read: {error}") from None
    # surrogates come in escapes alone, for UTF-8 has none
    return json.dumps(value).encode() if _ODD.search(body) else body


async def attended(app: ASGIApp, scope: Scope, body: bytes, receive: Receive, reply: Reply) -> None:
    """Run the application for as long as the client is there. Raises Gone where it leaves before the end."""
    left = asyncio.Event()
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        if messages:
            return messages.pop()
        await left.wait()
        return {"type": "http.disconnect"}

    async def leaving() -> None:
        while (await receive())["type"] != "http.disconnect":
            continue
        left.set()

    serving, watching = asyncio.ensure_future(_run(app, scope, replay, reply)), asyncio.ensure_future(leaving())
    try:
        await asyncio.wait((serving, watching), return_when=asyncio.FIRST_COMPLETED)
        if not serving.done() and not reply.whole:  # a server also says "disconnect" once all is sent
            raise Gone
        await serving
    finally:
        serving.cancel()
        watching.cancel()
        await asyncio.gather(serving, watching, return_exceptions=True)


async def _run(app: ASGIApp, scope: Scope, receive: Receive, reply: Reply) -> None:
    await app(scope, receive, reply.send)


def _too_long(most: int) -> Refused:
    told = f"the body is longer than the {most:,} bytes that this server reads; start it with a larger --max-body"
    return Refused(told, status=413)
