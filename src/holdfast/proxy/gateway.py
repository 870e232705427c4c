"""The gateway: histories are compacted on their way up, everything else passes byte for byte.

Paths that carry a history are those of `wires`; all others, and all answers, are passed on as they come. Whatever
goes wrong with a compaction, the request goes up as it came; the header of the answer and the log say so.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import httpx
from starlette.requests import Request
from starlette.responses import JSONResponse

from holdfast.errors import Busy
from holdfast.proxy.access_log import AccessLog, row_of
from holdfast.proxy.bill import Bill
from holdfast.proxy.caller import Caller, Counts, Failure, IncomingRequest, OutgoingRequest
from holdfast.proxy.conversations import Conversations
from holdfast.proxy.decoding import can_decode, decode
from holdfast.proxy.headers import (
    SHOWN,
    Headers,
    Scope,
    asks_for_socket,
    caller_digest,
    content_encodings,
    end_to_end,
    holdfast_header,
    is_anthropic_client,
    is_gemini_client,
)
from holdfast.proxy.journal import Journal
from holdfast.proxy.memory.exchange import MemoryExchange, MemoryTools
from holdfast.proxy.memory.source import SessionRecords, lookup_by_tools
from holdfast.proxy.options import Options
from holdfast.proxy.request_body import ClientGone, Receive, RequestBody
from holdfast.proxy.tariffs import Tariffs
from holdfast.proxy.turn_pages import lookup_words
from holdfast.proxy.upstream import Upstream, client_for
from holdfast.proxy.wires import WIRES, Wire, error_body, wire_of
from holdfast.recall.past import CompactionRecord, LostFact
from holdfast.web.limiter import ConcurrencyLimiter, share_for_one_key
from holdfast.web.request_error import RequestError

ProxySend = Callable[[dict[str, Any]], Awaitable[None]]

_CALLERS = 1_000  # keys and wires remembered at once; the one used longest ago goes first
_THREADS = 4
_UNREACHED = (httpx.HTTPError, httpx.InvalidURL, ValueError)
_REFUSALS = (400, 413, 422)
"""Statuses by which an API refuses a request for its content."""


class Gateway:
    """An ASGI app for every path that is not the proxy's own."""

    def __init__(self, address: str, options: Options, transport: httpx.AsyncBaseTransport | None) -> None:
        Caller(WIRES[0], options)  # a plan that cannot work fails now
        self._options = options
        self.journal = Journal(options.journal)
        self.memory = MemoryTools(self.journal, SessionRecords(options.journal)) if options.memory_tools else None
        self._tariffs = Tariffs(options)
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
            {"key": key[:SHOWN], "wire": wire, **count_all(caller.counts)}
            for (key, wire), caller in self._callers.items()
        ]
        others = {
            "passed_on": self._passed_on,
            "log_lines_lost": self._log.failed,
            "journal_turns_lost": self.journal.failed,
        }
        shown = {"dry_run": self._options.dry_run, "keys": rows, "conversations": self.conversations.rows()}
        return JSONResponse({**self.totals(), **others, **shown})

    def totals(self) -> dict[str, float]:
        """Returns the counts of all keys together."""
        rows = [count_all(caller.counts) for caller in self._callers.values()]
        return {name: sum(row[name] for row in rows) for name in count_all(Counts())}

    async def _serve(self, scope: Scope, body: RequestBody, send: ProxySend) -> None:
        try:
            with self._places.place(caller_digest(scope)):
                await self._forward(scope, body, send)
        except RequestError as error:
            await send_error(error.status, str(error), scope, send, close=error.close)
        except Busy as error:
            await send_error(503, str(error), scope, send)

    async def _forward(self, scope: Scope, body: RequestBody, send: ProxySend) -> None:
        if asks_for_socket(scope):
            raise RequestError("no WebSockets here; ask over plain HTTP, which carries the same requests", status=426)
        wire = wire_of(scope["method"], scope["path"])
        encodings = content_encodings(scope)
        if wire is None:
            await self._pass_on(scope, body, send)
            return
        data = await body.read(self._options.max_body) if can_decode(encodings) else None
        key = caller_digest(scope)
        if data is None:
            reason = "size" if can_decode(encodings) else f"encoding {', '.join(encodings)[:40]}"
            await self._pass_on(scope, body, send, holdfast_header(0, 0, 0, passed=reason))
            self._log.write({"key": key[:SHOWN], "wire": wire.name, "passed": reason})
            return
        caller = self._caller(wire, key)
        began = time.perf_counter()
        try:
            plain = decode(data, encodings, self._options.max_body)
        except ValueError as error:
            plain, outgoing = None, OutgoingRequest(failure=Failure("DecodeError", str(error)))
        else:
            lookup: Callable[[str], str] = partial(lookup_words, scope) if self.memory is None else lookup_by_tools
            incoming = IncomingRequest(plain or b"", scope["path"], lookup)
            too_large = OutgoingRequest(passed="size")
            outgoing = too_large if plain is None else await caller.prepare(incoming, self._pool)
        exchange = Exchange(caller, outgoing, time.perf_counter() - began)
        if self.memory is not None:
            loop, sent = asyncio.get_running_loop(), outgoing.body or plain or b""
            exchange.memory = await loop.run_in_executor(self._pool, self._open_memory, exchange, sent, key)
        try:
            await self._exchange(exchange, scope, data, send)
        finally:
            self._log.write(exchange.log_row(key, self._options.log_text))
            self.conversations.note(key, wire.name, exchange.outgoing, exchange.bill)

    async def _pass_on(self, scope: Scope, body: RequestBody, send: ProxySend, extra: Headers | None = None) -> None:
        self._passed_on += 1
        try:
            answer = await self._upstream.send(scope, body.pieces())
        except _UNREACHED as error:
            await self._report_upstream(error, scope, send, extra or [])
            return
        await relay(answer, send, extra or [])

    async def _exchange(self, exchange: Exchange, scope: Scope, data: bytes, send: ProxySend) -> None:
        outgoing, memory = exchange.outgoing, exchange.memory
        readable = without_encoding(scope)
        try:
            if memory is not None:
                answer = await self._send(readable, data, memory.data)
                if answer.status_code in _REFUSALS:  # perhaps for the tools
                    await answer.aclose()
                    memory = exchange.memory = None
            if memory is None:
                answer = await self._send(scope, data, outgoing.body)
            if memory is None and outgoing.body is not None and answer.status_code in _REFUSALS:
                await answer.aclose()
                answer = await self._send(scope, data, None)
                # RequestError as well, the fault was the client's own.
                exchange.fall_back(for_good=answer.status_code not in _REFUSALS)
            elif memory is None and outgoing.instead is not None and answer.status_code in _REFUSALS:
                await answer.aclose()
                answer = await self._send(scope, data, outgoing.instead)
        except _UNREACHED as error:
            exchange.status = await self._report_upstream(error, scope, send, exchange.headers)
            return
        exchange.status = answer.status_code
        if answer.is_success:
            exchange.caller.charge(exchange.outgoing)
            if memory is not None:
                await memory.relay(answer, partial(self._send, readable, data), send, exchange.headers)
                return
        await relay(answer, send, exchange.headers)

    def _open_memory(self, exchange: Exchange, body: bytes, key: str) -> MemoryExchange | None:
        """Returns the request with memory tools; None for one that gets none."""
        made = exchange.outgoing
        if self.memory is None or not body or not made.session or made.passed or self._options.dry_run:
            return None
        record = None
        if made.compacted:
            lost = tuple(LostFact(fact.kind.value, fact.text, fact.turn + 1) for fact in made.lost)
            record = CompactionRecord("the proxy", made.before, made.after, lost)
        self.memory.records.note_sent(made.session, made.sent, record)
        try:
            return self.memory.open(exchange.caller.wire.name, body, key, made.session)
        except (ValueError, TypeError, AttributeError, LookupError):  # the upstream will say what is wrong with it
            return None

    async def _send(self, scope: Scope, data: bytes, body: bytes | None) -> httpx.Response:
        """Sends a body of the proxy's own, or the request as it came."""
        return await self._upstream.send(scope, data if body is None else body, plain=body is not None)

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
        caller = self._callers.pop(name, None)
        asked = self.memory.records.asked if self.memory else set[str]()
        caller = caller or Caller(wire, self._options, self.journal, self._tariffs, key, asked)
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
    memory: MemoryExchange | None = None
    """The request with memory tools, where it went up so."""

    def __post_init__(self) -> None:
        self.caller.counts.add(self.outgoing)

    def fall_back(self, for_good: bool) -> None:
        """Counts that the original was sent because the upstream refused what had been made of it."""
        if for_good:
            self.caller.leave_alone(self.outgoing)
        self.caller.counts.tokens_after += self.outgoing.before - self.outgoing.after
        self.outgoing = replace(self.outgoing, after=self.outgoing.before, sent=self.outgoing.turns)

    @property
    def headers(self) -> Headers:
        made = self.outgoing
        return holdfast_header(made.before, made.after, self.caller.counts.compactions, made.over, made.passed)

    @property
    def bill(self) -> Bill | None:
        """The bill of the session; None where the model has no known price."""
        return self.caller.bill(self.outgoing.session) if self.outgoing.tariff and self.outgoing.session else None

    def log_row(self, key: str, with_text: bool) -> dict[str, Any]:
        """Returns the line of the log."""
        head = {"key": key[:SHOWN], "wire": self.caller.wire.name, "status": self.status}
        looked_up = {"memory_calls": self.memory.calls} if self.memory else {}
        return {**head, "seconds": round(self.seconds, 4), **row_of(self.outgoing, with_text), **looked_up}


def count_all(counts: Counts) -> dict[str, float]:
    """Returns the counts as JSON."""
    return {**asdict(counts), "tokens_saved": counts.saved, "money_saved": counts.money_saved}


def without_encoding(scope: Scope) -> Scope:
    """Returns the scope of a request whose answer is read here, and so must come uncompressed."""
    headers = [(name, value) for name, value in scope["headers"] if name.lower() != b"accept-encoding"]
    return {**scope, "headers": [*headers, (b"accept-encoding", b"identity")]}


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
    body = json.dumps(error_body(status, message, is_anthropic_client(scope), is_gemini_client(scope))).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)), *(extra or [])]
    headers += [(b"connection", b"close")] if close else []
    headers += [(b"retry-after", b"1")] if status in (429, 503) else []
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
