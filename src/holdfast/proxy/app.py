"""A proxy in front of any API: histories are compacted on their way up, everything else passes byte for byte.

Paths that carry a history are those of `wires`; all others, and all answers, are passed on as they come. Whatever
goes wrong with a compaction, the request goes up as it came.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from holdfast.proxy.access_log import Journal, row_of
from holdfast.proxy.caller import Prepared, Tenant
from holdfast.proxy.options import Options, is_loopback, upstream_address
from holdfast.proxy.request_body import Gone, Incoming, Receive
from holdfast.proxy.upstream import Headers, Scope, Upstream, caller_key, client_for, digest, end_to_end, like_anthropic
from holdfast.proxy.wires import WIRES, Wire, error_body, wire_of

Send = Callable[[dict[str, Any]], Awaitable[None]]

SHOWN = 12
"""Characters of a key's digest that are told."""
_TENANTS = 1_000  # keys and wires remembered at once; the one used longest ago goes first
_THREADS = 4
_UNREACHED = (httpx.HTTPError, httpx.InvalidURL, ValueError)
_REFUSALS = (400, 422)
"""Statuses by which an API refuses a request for its content."""


def create_proxy(
    upstream: str, options: Options | None = None, transport: httpx.AsyncBaseTransport | None = None
) -> Starlette:
    """The ASGI app. Raises BadOption for an address or a plan that cannot work, OSError for a log that cannot be
    written."""
    options = options or Options()
    gateway = Gateway(upstream_address(upstream), options, transport)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await gateway.close()

    routes = [
        Route("/health", _health, methods=["GET"]),
        Route("/holdfast/proxy", gateway.status, methods=["GET"]),
        Route("/{path:path}", gateway),
    ]
    return Starlette(routes=routes, lifespan=lifespan)


async def _health(_: Request) -> JSONResponse:
    return JSONResponse({"status": "ok"})


class Gateway:
    """An ASGI app for every path."""

    def __init__(self, address: str, options: Options, transport: httpx.AsyncBaseTransport | None) -> None:
        Tenant(WIRES[0], options)  # a plan that cannot work fails now
        self._options = options
        self._upstream = Upstream(address, client_for(transport), options.key, options.timeout)
        self._pool = ThreadPoolExecutor(_THREADS, "holdfast-proxy")
        self._journal = Journal(options.log)
        self._passed = 0
        self._tenants: dict[tuple[str, str], Tenant] = {}  # the one used last stands last

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        incoming = Incoming(receive)
        work = asyncio.ensure_future(self._serve(scope, incoming, send))
        gone = asyncio.ensure_future(incoming.gone())
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            # A client that hangs up ends its request upstream, too.
            for task in (work, gone):
                task.cancel()
            results = await asyncio.gather(work, gone, return_exceptions=True)
        if isinstance(results[0], Exception) and not isinstance(results[0], Gone):
            raise results[0]

    async def close(self) -> None:
        await self._upstream.client.aclose()
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._journal.close()

    async def _serve(self, scope: Scope, incoming: Incoming, send: Send) -> None:
        wire = wire_of(scope["method"], scope["path"])
        encoded = any(name == b"content-encoding" and value != b"identity" for name, value in scope["headers"])
        data = await incoming.read(self._options.max_body) if wire and not encoded else None
        if wire is None or data is None:
            await self._pass_on(scope, incoming, send)
            return
        tenant = self._tenant(wire, scope)
        began = time.perf_counter()
        prepared = await tenant.prepared(data, self._pool)
        exchange = Exchange(tenant, prepared, time.perf_counter() - began)
        try:
            await self._exchange(exchange, scope, data, send)
        finally:
            self._journal.write(exchange.told(caller_digest(scope), self._options.log_text))

    async def _pass_on(self, scope: Scope, incoming: Incoming, send: Send) -> None:
        self._passed += 1
        try:
            answer = await self._upstream.send(scope, incoming.pieces())
        except _UNREACHED as error:
            await self._refuse(error, scope, send, [])
            return
        await relay(answer, send, [])

    async def _exchange(self, exchange: Exchange, scope: Scope, data: bytes, send: Send) -> None:
        prepared = exchange.prepared
        try:
            answer = await self._upstream.send(scope, data if prepared.body is None else prepared.body)
            if prepared.body is not None and answer.status_code in _REFUSALS:
                await answer.aclose()
                answer = await self._upstream.send(scope, data)
                # Refused as well, the fault was the client's own.
                exchange.fall_back(for_good=answer.status_code not in _REFUSALS)
        except _UNREACHED as error:
            exchange.status = await self._refuse(error, scope, send, exchange.headers)
            return
        exchange.status = answer.status_code
        await relay(answer, send, exchange.headers)

    async def _refuse(self, error: Exception, scope: Scope, send: Send, extra: Headers) -> int:
        """Answer that the upstream did not, in the shape of the client's wire; the status."""
        late = isinstance(error, httpx.TimeoutException)
        what = "did not answer in time" if late else "cannot be reached"
        message = f"the upstream {what} ({type(error).__name__}); check that it runs and that --upstream is right"
        body = json.dumps(error_body(504 if late else 502, message, like_anthropic(scope))).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)), *extra]
        await send({"type": "http.response.start", "status": 504 if late else 502, "headers": headers})
        await send({"type": "http.response.body", "body": body})
        return 504 if late else 502

    def _tenant(self, wire: Wire, scope: Scope) -> Tenant:
        name = (caller_digest(scope), wire.name)
        tenant = self._tenants.pop(name, None) or Tenant(wire, self._options)
        self._tenants[name] = tenant
        if len(self._tenants) > _TENANTS:
            del self._tenants[next(iter(self._tenants))]
        return tenant

    async def status(self, request: Request) -> JSONResponse:
        """Counts by key, for this machine alone."""
        if not request.client or not is_loopback(request.client.host):
            message = "the status is told on this machine only; ask at its loopback address"
            return JSONResponse(error_body(403, message, False), 403)
        rows = [
            {"key": key[:SHOWN], "wire": wire, **asdict(tenant.counts), "tokens_saved": tenant.counts.saved}
            for (key, wire), tenant in self._tenants.items()
        ]
        names = ("requests", "tokens_saved", "compactions", "failures", "refused")
        totals = {name: sum(row[name] for row in rows) for name in names}
        others = {"passed_on": self._passed, "log_lines_lost": self._journal.failed}
        return JSONResponse({**totals, **others, "dry_run": self._options.dry_run, "keys": rows})


@dataclass
class Exchange:
    """One request with a history, and how it went."""

    tenant: Tenant
    prepared: Prepared
    seconds: float
    """Spent on preparing it."""
    status: int = 0
    """Of the answer; 0 where the client hung up before there was one."""

    def __post_init__(self) -> None:
        self.tenant.counts.add(self.prepared)

    def fall_back(self, for_good: bool) -> None:
        """The original was sent in place of what the upstream refused."""
        if for_good:
            self.tenant.leave_alone(self.prepared)
        self.tenant.counts.tokens_after += self.prepared.before - self.prepared.after
        self.prepared = replace(self.prepared, after=self.prepared.before)

    @property
    def headers(self) -> Headers:
        made, counts = self.prepared, self.tenant.counts
        return [(b"x-holdfast", b"before=%d;after=%d;compactions=%d" % (made.before, made.after, counts.compactions))]

    def told(self, key: str, with_text: bool) -> dict[str, Any]:
        """The line of the log."""
        head = {"key": key[:SHOWN], "wire": self.tenant.wire.name, "status": self.status}
        return {**head, "seconds": round(self.seconds, 4), **row_of(self.prepared, with_text)}


async def relay(answer: httpx.Response, send: Send, extra: Headers) -> None:
    """Pass an answer on, its body as the bytes come."""
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


def caller_digest(scope: Scope) -> str:
    return digest(caller_key(scope))
