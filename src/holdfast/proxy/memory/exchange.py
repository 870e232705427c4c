"""Adds memory tools to requests, and answers their calls in a loop with the upstream, until the client's turn comes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import httpx

from holdfast.proxy.headers import Headers, end_to_end
from holdfast.proxy.journal import Journal
from holdfast.proxy.memory import chat_answer, messages_answer, responses_answer
from holdfast.proxy.memory.event_stream import read_frames, write_frames
from holdfast.proxy.memory.hidden_messages import HiddenMessages
from holdfast.proxy.memory.source import JournalSource, SessionRecords
from holdfast.proxy.memory.wire_answer import MOST_ROUNDS, Body, Lookup, WireAnswer
from holdfast.recall.tools import TOOL_NAMES, Indexes, Toolbox

Send = Callable[[dict[str, Any]], Awaitable[None]]
SendUp = Callable[[bytes], Awaitable[httpx.Response]]
_WIRES: dict[str, tuple[ModuleType, Callable[[], WireAnswer]]] = {
    "openai_chat": (chat_answer, chat_answer.ChatAnswer),
    "anthropic": (messages_answer, messages_answer.MessagesAnswer),
    "openai_responses": (responses_answer, responses_answer.ResponsesAnswer),
}
_PROVIDERS_OWN = ("previous_response_id", "conversation", "background")
_DROPPED = (b"content-length", b"content-encoding", b"transfer-encoding")


@dataclass
class MemoryTools:
    """The memory tools of a proxy."""

    journal: Journal
    records: SessionRecords = field(default_factory=SessionRecords)
    hidden: HiddenMessages = field(default_factory=HiddenMessages)
    indexes: Indexes = field(default_factory=Indexes)

    def open(self, wire: str, data: bytes, key: str, session: str) -> MemoryExchange | None:
        """Returns the exchange of a request with the tools in it; None for one that goes up as it is."""
        if wire not in _WIRES or not session:
            return None
        module, make = _WIRES[wire]
        body = json.loads(data)
        items = body.get(module.FIELD)
        stored = module is responses_answer and body.get("store") is not False
        if not isinstance(items, list | str) or stored or not _may_call(body):
            return None  # what the provider stores a later request may go on from, and would lack our results
        asked = items if isinstance(items, list) else [{"role": "user", "content": items}]
        whole, found = self.hidden.reveal(key, asked, module.place_of, module is not responses_answer)
        whole = _join_users(whole) if module is messages_answer and found else whole
        extended = {
            **body,
            module.FIELD: whole if found else items,
            "tools": [*body.get("tools", ()), *module.TOOL_FIELDS],
        }
        source = JournalSource(self.journal, self.records, key, session, self.records.asked.add)
        return MemoryExchange(extended, make(), Toolbox(source, self.indexes), key, asked[-1:], self.hidden)


@dataclass
class MemoryExchange:
    """One request with memory tools, and its answer."""

    body: Body
    answer: WireAnswer
    toolbox: Toolbox
    key: str
    newest: list[Any]
    """The newest item of the request, if there is any."""
    hidden: HiddenMessages
    calls: int = 0
    """Calls that were answered."""

    @property
    def data(self) -> bytes:
        """The body as it goes up."""
        return _dump(self.body)

    async def relay(self, first: httpx.Response, send_up: SendUp, send: Send, extra: Headers) -> None:
        """Passes the joined answer on, asking the upstream again for each round of memory calls.

        An answer that breaks off upstream breaks off here.
        """
        streams = "text/event-stream" in first.headers.get("content-type", "")
        kept = [(name, value) for name, value in end_to_end(first.headers.raw) if name.lower() not in _DROPPED]
        try:
            if streams:
                await send({"type": "http.response.start", "status": first.status_code, "headers": [*kept, *extra]})
                async for piece in self._stream(first, send_up):
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
                await send({"type": "http.response.body", "body": b""})
                return
            status, body = await self._whole(first, send_up)
            length = (b"content-length", b"%d" % len(body))
            await send({"type": "http.response.start", "status": status, "headers": [*kept, length, *extra]})
            await send({"type": "http.response.body", "body": body})
        except httpx.TransportError:
            return

    async def _stream(self, response: httpx.Response, send_up: SendUp) -> AsyncIterator[bytes]:
        for number in range(MOST_ROUNDS + 1):
            try:
                async for frame in read_frames(response.aiter_bytes()):
                    if frames := self.answer.feed(frame):
                        yield write_frames(frames)
            finally:
                await response.aclose()
            if not await self._go_on(number):
                break
            response = await send_up(self.data)
            if not response.is_success:
                await response.aclose()
                raise httpx.RemoteProtocolError("the upstream refused to go on")
        yield write_frames(self.answer.end())

    async def _whole(self, response: httpx.Response, send_up: SendUp) -> tuple[int, bytes]:
        for number in range(MOST_ROUNDS + 1):
            try:
                data = await response.aread()
            finally:
                await response.aclose()
            if not response.is_success:
                return response.status_code, data
            try:
                self.answer.take(json.loads(data))
            except (ValueError, KeyError, IndexError, TypeError, AttributeError):  # no answer of this wire
                return response.status_code, data
            if not await self._go_on(number):
                break
            response = await send_up(self.data)
        return response.status_code, _dump(self.answer.whole())

    async def _go_on(self, number: int) -> bool:
        """Answers the calls of a round; returns True if the upstream is to be asked again."""
        calls = self.answer.memory_calls()
        lookups = [
            Lookup(call, await asyncio.to_thread(self.toolbox.answer, call.name, call.arguments)) for call in calls
        ]
        self.calls += len(calls)
        if calls and not self.answer.is_mixed() and number < MOST_ROUNDS:
            self.body = self.answer.next_body(self.body, lookups)
            return True
        self.hidden.note(self.key, self.newest[-1] if self.newest else None, self.answer.hidden(lookups))
        return False


def _may_call(body: Body) -> bool:
    """Returns True if a request may get tools of ours: it holds its history, wants one answer, and forces no call."""
    if any(body.get(name) for name in _PROVIDERS_OWN) or (body.get("n") or 1) != 1:
        return False
    choice = body.get("tool_choice") or "auto"
    tools = body.get("tools") or []
    if not tools and (_wants_form(body) or not _holds_answer(body)):
        return False  # a title, a judgement: nothing was said yet that could be looked up
    named = {_name(tool) for tool in tools if isinstance(tool, dict)}
    return choice in ("auto", {"type": "auto"}) and isinstance(tools, list) and not named & TOOL_NAMES


def _wants_form(body: Body) -> bool:
    """Returns True if the answer must be of a form, such as a JSON schema."""
    formats = (body.get("response_format"), (body.get("output_config") or {}).get("format"))
    text = (body.get("text") or {}).get("format") or {}
    return any(formats) or bool(text.get("type", "text") != "text")


def _holds_answer(body: Body) -> bool:
    items = body.get("messages") or body.get("input")
    return isinstance(items, list) and any(isinstance(item, dict) and item.get("role") == "assistant" for item in items)


def _name(tool: Body) -> str:
    function = tool.get("function")
    return str(function.get("name") if isinstance(function, dict) else tool.get("name"))


def _join_users(messages: list[Any]) -> list[Any]:
    """Returns messages with each run of user messages as one: results of calls stand in one message."""
    joined: list[Any] = []
    for message in messages:
        if joined and joined[-1].get("role") == message.get("role") == "user":
            joined[-1] = {**message, "content": [*_blocks(joined[-1]), *_blocks(message)]}
        else:
            joined.append(message)
    return joined


def _blocks(message: Body) -> list[Any]:
    content = message.get("content")
    return content if isinstance(content, list) else [{"type": "text", "text": content}]


def _dump(body: Body) -> bytes:
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
