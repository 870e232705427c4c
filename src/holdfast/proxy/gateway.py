"""The gateway: histories are compacted on their way up, everything else passes byte for byte.

Paths that carry a history are those of `wires`; all others, and all answers, are passed on as they come. Whatever
goes wrong with a compaction, the request goes up as it came.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any

import httpx
from starlette.requests import Request
from starlette.responses import JSONResponse

from holdfast.errors import Busy
from holdfast.proxy.access_log import AccessLog, row_of
from holdfast.proxy.caller import Caller, OutgoingRequest
from holdfast.proxy.conversations import Conversations
from holdfast.proxy.headers import (
    SHOWN,
    Headers,
    Scope,
    caller_digest,
    end_to_end,
    holdfast_header,
    is_anthropic_client,
)
from holdfast.proxy.options import Options
from holdfast.proxy.request_body import ClientGone, Receive, RequestBody
from holdfast.proxy.upstream import Upstream, client_for
from holdfast.proxy.wires import WIRES, Wire, error_body, wire_of
from holdfast.web.limiter import ConcurrencyLimiter, share_for_one_key
from holdfast.web.request_error import RequestError

ProxySend = Callable[[dict[str, Any]], Awaitable[None]]

_CALLERS = 1_000  # keys and wires remembered at once; the one used longest ago goes first
_THREADS = 4
_UNREACHED = (httpx.HTTPError, httpx.InvalidURL, ValueError)
_REFUSALS = (400, 422)
"""Statuses by which an API refuses a request for its content."""


class Gateway:
    """An ASGI app for every path that is not the proxy's own."""

    def __init__(self, address: str, options: Options, transport: httpx.AsyncBaseTransport | None) -> None:
        Caller(WIRES[0], options)  # a plan that cannot work fails now
        self._options = options
        self._upstream = Upstream(address, client_for(transport), options.key, options.timeout)
        self._pool = ThreadPoolExecutor(_THREADS, "holdfast-proxy")
        self._log = AccessLog(options.log)
        self._places = ConcurrencyLimiter(options.concurrency, share_for_one_key(options.concurrency), "requests")
        self._passed_on = 0
        self._callers: dict[tuple[str, str], Caller] = {}  # the one used last stands last
        self.conversations = Conversations(options.log_text)

    async def __call__(self, scope: Scope, receive: Receive, send: ProxySend) -> None:
        body = RequestBody(receive, self._options.body_seconds)
        work = asyncio.ensure_future(self._serve(scope, body, send))
        gone = asyncio.ensure_future(body.wait_for_disconnect())
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            # A client that hangs up ends its request upstream, too.
            for task in (work, gone):
                task.cancel()
            results = await asyncio.gather(work, gone, return_exceptions=True)
        if isinstance(results[0], Exception) and not isinstance(results[0], ClientGone):
            raise results[0]

    async def close(self) -> None:
        """Ends the connections to the upstream and closes the log."""
        await self._upstream.client.aclose()
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._log.close()

    async def answer_status(self, _: Request) -> JSONResponse:
        """Sends the counts of all keys and the conversations."""
        rows = [
            {"key": key[:SHOWN], "wire": wire, **asdict(caller.counts), "tokens_saved": caller.counts.saved}
            for (key, wire), caller in self._callers.items()
        ]
        names = ("requests", "tokens_saved", "compactions", "failures", "refused")
        totals = {name: sum(row[name] for row in rows) for name in names}
        others = {"passed_on": self._passed_on, "log_lines_lost": self._log.failed}
        shown = {"dry_run": self._options.dry_run, "keys": rows, "conversations": self.conversations.rows()}
        return JSONResponse({**totals, **others, **shown})

    async def _serve(self, scope: Scope, body: RequestBody, send: ProxySend) -> None:
        try:
            with self._places.place(caller_digest(scope)):
                await self._forward(scope, body, send)
        except RequestError as error:
            await send_error(error.status, str(error), scope, send, close=error.close)
        except Busy as error:
            await send_error(503, str(error), scope, send)

    async def _forward(self, scope: Scope, body: RequestBody, send: ProxySend) -> None:
        wire = wire_of(scope["method"], scope["path"])
        encoded = any(name == b"content-encoding" and value != b"identity" for name, value in scope["headers"])
        data = await body.read(self._options.max_body) if wire and not encoded else None
        if wire is None or data is None:
            await self._pass_on(scope, body, send)
            return
        key = caller_digest(scope)
        caller = self._caller(wire, key)
        began = time.perf_counter()
        outgoing = await caller.prepare(data, self._pool)
        exchange = Exchange(caller, outgoing, time.perf_counter() - began)
        try:
            await self._exchange(exchange, scope, data, send)
        finally:
            self._log.write(exchange.log_row(key, self._options.log_text))
            self.conversations.note(key, wire.name, exchange.outgoing)

    async def _pass_on(self, scope: Scope, body: RequestBody, send: ProxySend) -> None:
        self._passed_on += 1
        try:
            answer = await self._upstream.send(scope, body.pieces())
        except _UNREACHED as error:
            await self._report_upstream(error, scope, send, [])
            return
        await relay(answer, send, [])

    async def _exchange(self, exchange: Exchange, scope: Scope, data: bytes, send: ProxySend) -> None:
        outgoing = exchange.outgoing
        try:
            answer = await self._upstream.send(scope, data if outgoing.body is None else outgoing.body)
            if outgoing.body is not None and answer.status_code in _REFUSALS:
                await answer.aclose()
                answer = await self._upstream.send(scope, data)
                # RequestError as well, the fault was the client's own.
                exchange.fall_back(for_good=answer.status_code not in _REFUSALS)
        except _UNREACHED as error:
            exchange.status = await self._report_upstream(error, scope, send, exchange.headers)
            return
        exchange.status = answer.status_code
        await relay(answer, send, exchange.headers)

    async def _report_upstream(self, error: Exception, scope: Scope, send: ProxySend, extra: Headers) -> int:
        """Sends the error that the upstream did not answer; returns the status."""
        late = isinstance(error, httpx.TimeoutException)
        what = "did not answer in time" if late else "cannot be reached"
        message = f"the upstream {what} ({type(error).__name__}); check that it runs and that --upstream is right"
        status = 504 if late else 502
        await send_error(status, message, scope, send, extra)
        return status

    def _caller(self, wire: Wire, key: str) -> Caller:
        name = (key, wire.name)
        caller = self._callers.pop(name, None) or Caller(wire, self._options)
        self._callers[name] = caller
        if len(self._callers) > _CALLERS:
            del self._callers[next(iter(self._callers))]
        return caller


@dataclass
class Exchange:
    """One request with a history, and its outcome."""

    caller: Caller
    outgoing: OutgoingRequest
    seconds: float
    """Seconds spent on preparing it."""
    status: int = 0
    """The status of the answer; 0 if the client hung up before there was one."""

    def __post_init__(self) -> None:
        self.caller.counts.add(self.outgoing)

    def fall_back(self, for_good: bool) -> None:
        """Counts that the original was sent because the upstream refused what had been made of it."""
        if for_good:
            self.caller.leave_alone(self.outgoing)
        self.caller.counts.tokens_after += self.outgoing.before - self.outgoing.after
        self.outgoing = replace(self.outgoing, after=self.outgoing.before)

    @property
    def headers(self) -> Headers:
        return holdfast_header(self.outgoing.before, self.outgoing.after, self.caller.counts.compactions)

    def log_row(self, key: str, with_text: bool) -> dict[str, Any]:
        """Returns the line of the log."""
        head = {"key": key[:SHOWN], "wire": self.caller.wire.name, "status": self.status}
        return {**head, "seconds": round(self.seconds, 4), **row_of(self.outgoing, with_text)}


async def relay(answer: httpx.Response, send: ProxySend, extra: Headers) -> None:
    """Passes an answer on, its body as the bytes come."""
    try:
        headers = [*end_to_end(answer.headers.raw), *extra]
        await send({"type": "http.response.start", "status": answer.status_code, "headers": headers})
        async for piece in answer.aiter_raw():
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
    except httpx.TransportError:
        return  # an answer that broke off upstream breaks off here: no end is sent
    finally:
        await answer.aclose()


async def send_error(
    status: int, message: str, scope: Scope, send: ProxySend, extra: Headers | None = None, close: bool = False
) -> None:
    """Sends an error of the proxy's own, in the shape of the client's wire."""
    body = json.dumps(error_body(status, message, is_anthropic_client(scope))).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)), *(extra or [])]
    headers += [(b"connection", b"close")] if close else []
    headers += [(b"retry-after", b"1")] if status in (429, 503) else []
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
