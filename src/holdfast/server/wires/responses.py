"""OpenAI's Responses: `/v1/responses`, streaming or whole, and `/v1/responses/compact`.

A history comes as items, or by the id of the response that it ended with, or behind a compaction, which stands for
all that was before it. The host compacts as its policy says in any case; `compact` makes it do so now.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, Literal

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field

from holdfast.errors import PromptTooLong
from holdfast.server.http import errors, sse
from holdfast.server.http.answer_stream import begin_answer
from holdfast.server.http.errors import TimedOut
from holdfast.server.http.json_body import JsonRoute
from holdfast.server.protocol import AnswerEnd, AnswerStart, GenerateOutput, GenerateRequest, Host
from holdfast.server.wires.openai_common import SMALLEST_SHARE, limit_tokens
from holdfast.server.wires.request_warnings import warn_of_media, warn_of_tools
from holdfast.server.wires.response_items import Answer, new_id, usage_fields
from holdfast.server.wires.response_store import Preamble, ResponseStore
from holdfast.server.wires.response_tools import ToolOffer, read_tools
from holdfast.transcript.cuts import find_orphans
from holdfast.transcript.document import Entry, MalformedEntry
from holdfast.transcript.formats.openai_responses import Item, group_items, read_item
from holdfast.transcript.turn import Role, Turn
from holdfast.web.request_error import RequestError

router = APIRouter(tags=["OpenAI"], route_class=JsonRoute)
log = logging.getLogger("holdfast.server")

_NEEDED = {
    "function_call": ("call_id", "name", "arguments"),
    "custom_tool_call": ("call_id", "name", "input"),
    "function_call_output": ("call_id",),
    "custom_tool_call_output": ("call_id",),
}
_REFERENCE = "item_reference"
_COMPACTION = "compaction"


class Input(BaseModel):
    """A history."""

    model: str | None = Field(None, description="Any name: the model that the server was started with answers.")
    input: str | list[dict[str, Any]] | None = None
    instructions: str | None = None
    previous_response_id: str | None = None


class Create(Input):
    """A history, and how to answer. Fields that are not known are ignored."""

    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = Field(None, description="auto or none; a call cannot be forced.")
    max_output_tokens: int | None = Field(None, ge=1, lt=2**31)
    temperature: float | None = Field(None, ge=0, le=2, description="Default 0: the likeliest token each time.")
    top_p: float | None = Field(None, ge=0, le=1)
    stream: bool | None = None
    store: bool | None = Field(None, description="False: the answer cannot be named later.")
    metadata: dict[str, str] | None = None
    parallel_tool_calls: bool | None = Field(None, description="Taken, not enforced.")
    text: dict[str, Any] | None = Field(None, description="Plain text and nothing else.")
    background: bool | None = Field(None, description="Not supported.")
    conversation: Any = Field(None, description="Not supported: use previous_response_id.")
    prompt: Any = Field(None, description="Not supported.")
    top_logprobs: int | None = Field(None, description="Not supported.")


class ResponseBody(BaseModel):
    """A response, with what it repeats of its request."""

    id: str
    object: Literal["response"]
    created_at: int
    status: Literal["completed", "incomplete"]
    model: str
    output: list[dict[str, Any]]
    usage: dict[str, Any]
    holdfast: dict[str, Any] = Field(description="The session: slots, bytes, compactions, evidence.")


class CompactionBody(BaseModel):
    """A compaction."""

    id: str
    object: Literal["response.compaction"]
    created_at: int
    output: list[dict[str, Any]] = Field(description="One item, which stands for the whole history.")
    usage: dict[str, Any]
    holdfast: dict[str, Any] = Field(description="The session as it is now.")


_SPOKEN: dict[int | str, dict[str, Any]] = {
    200: {"model": ResponseBody, "description": "A response; with `stream`, events.", "content": {sse.TYPE: {}}}
}
_COMPACTED: dict[int | str, dict[str, Any]] = {200: {"model": CompactionBody}}


@dataclass(frozen=True)
class History:
    """The history of a request: the turns that were kept, and those that it adds."""

    before: tuple[Turn, ...]
    added: tuple[Turn, ...]

    @property
    def turns(self) -> tuple[Turn, ...]:
        return (*self.before, *self.added)

    def ask(self, key: str, around: Preamble, **how: Any) -> GenerateRequest:
        """Returns the request to go on from here."""
        head = (Turn(Role.SYSTEM, around.instructions),) if around.instructions else ()
        return GenerateRequest((*head, *self.turns), around.tools, key, **how)


@router.post("/v1/responses", responses=_SPOKEN)
async def create(request: Request, body: Create) -> Response:
    """Continues a history with an answer."""
    history, around, ask, offer = await run_in_threadpool(read_request, body, request)
    answer = Answer(_head(body, request.app.state.host.model), offer)
    try:
        events = await begin_answer(request, ask)
    except PromptTooLong as error:
        if not body.stream:
            raise
        return sse.Stream(request, _stream_refusal(error, answer))  # a stream says it in the provider's own event

    def remember(turn: Turn) -> None:
        memory, key = request.app.state.responses, request.state.key
        memory.note(key, (*history.turns, turn), around)
        if body.store is not False:
            memory.keep(key, answer.response["id"], history.before, (*history.added, turn))

    def keep(end: Mapping[str, Any]) -> None:
        if body.store is not False:
            items = [body.input] if isinstance(body.input, str) else body.input or ()
            sent = [item if isinstance(item, dict) else _user_item(item) for item in items]
            request.app.state.responses.keep_body(request.state.key, end["id"], end, sent)

    told = _wire_events(events, answer, remember, keep)
    if body.stream:
        return sse.Stream(request, _stream_events(told, answer))
    async with aclosing(told):
        async for _ in told:
            pass
    return JSONResponse(answer.response)


@router.post("/v1/responses/compact", responses=_COMPACTED)
async def compact(request: Request, body: Input) -> Response:
    """Compacts the session of a history now. The item that comes back stands for all of it."""
    state, key = request.app.state, request.state.key
    memory: ResponseStore = state.responses
    history, ask = await run_in_threadpool(read_compaction, body, request)
    work = asyncio.get_running_loop().run_in_executor(state.pool, _compact_session, state.host, ask)
    try:
        async with asyncio.timeout(state.settings.seconds):
            started, row = await work
    except TimeoutError:
        raise TimedOut(f"the compaction took longer than {state.settings.seconds:g} seconds") from None
    token = f"holdfast.{started.session}.{len(history.turns)}.{secrets.token_urlsafe(12)}"
    response_id = new_id("resp")
    for name in (token, response_id):
        memory.keep(key, name, history.before, history.added)
    item = {"type": _COMPACTION, "id": new_id("cmp"), "encrypted_content": token}
    return JSONResponse(
        {
            "id": response_id,
            "object": "response.compaction",
            "created_at": int(time.time()),
            "output": [item],
            "usage": usage_fields(started.prompt_tokens, started.cached_tokens, 0),
            "holdfast": dict(row),
        }
    )


def _user_item(text: str) -> dict[str, Any]:
    return {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}


def read_request(body: Create, request: Request) -> tuple[History, Preamble, GenerateRequest, ToolOffer]:
    """Returns the history of a request, what it is read with, both in the host's terms, and the tools that are offered.

    Raises RequestError.
    """
    offer = read_tools(body.tools or ())
    warn_of_tools(request, offer.left_out, "no tool is run here; functions, namespaces and custom tools can be given")
    functions = () if body.tool_choice == "none" else offer.functions
    history, around = read_history(body, request, offer), Preamble(functions, body.instructions)
    return history, around, history.ask(request.state.key, around, **_sampling(body, request)), offer


def read_compaction(body: Input, request: Request) -> tuple[History, GenerateRequest]:
    """Returns the history of a compaction, and the request that makes the host read it. Raises RequestError."""
    history, key = read_history(body, request), request.state.key
    noted = request.app.state.responses.preamble(key, history.turns)
    around = noted if body.instructions is None else replace(noted, instructions=body.instructions)
    return history, history.ask(key, around, max_tokens=1)


def _compact_session(host: Host, ask: GenerateRequest) -> tuple[AnswerStart, Mapping[str, Any]]:
    """Finds or reads the session of a history, and compacts it."""
    events = host.complete(ask)
    try:
        started = next(event for event in events if isinstance(event, AnswerStart))
    finally:
        events.close()  # type: ignore[attr-defined]
    return started, host.compact(started.session, ask.key, {})


async def _wire_events(
    events: AsyncGenerator[GenerateOutput],
    answer: Answer,
    remember: Callable[[Turn], None],
    keep: Callable[[Mapping[str, Any]], None],
) -> AsyncGenerator[dict[str, Any]]:
    """Yields the events of this wire. What was answered is remembered before the client knows of its end."""
    async with aclosing(events):
        async for event in events:
            last = list(answer.to_events(event))
            if isinstance(event, AnswerEnd):
                await run_in_threadpool(remember, event.turn)
                await run_in_threadpool(keep, answer.response)
            for one in last:
                yield one


async def _stream_refusal(error: Exception, answer: Answer) -> AsyncGenerator[bytes]:
    """Yields an answer that is refused before it begins, as the provider's streams do."""
    for one in (*answer.to_opening(), answer.to_failure(errors.problem_of(error))):
        yield sse.event(one, one["type"])


async def _stream_events(told: AsyncGenerator[dict[str, Any]], answer: Answer) -> AsyncGenerator[bytes]:
    try:
        async with aclosing(told):
            async for one in told:
                yield sse.event(one, one["type"])
    except Exception as error:
        problem = errors.problem_of(error)
        if problem.status == 500:
            log.exception("answer to /v1/responses")
        last = answer.to_failure(problem)
        yield sse.event(last, last["type"])


def _head(body: Create, model: str) -> dict[str, Any]:
    """Returns the fields in which a response repeats its request."""
    return {
        "id": new_id("resp"),
        "object": "response",
        "created_at": int(time.time()),
        "error": None,
        "incomplete_details": None,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "metadata": body.metadata or {},
        "model": model,
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "previous_response_id": body.previous_response_id,
        "store": body.store is not False,
        "temperature": body.temperature or 0.0,
        "text": {"format": {"type": "text"}},
        "tool_choice": body.tool_choice or "auto",
        "tools": body.tools or [],
        "top_p": 1.0 if body.top_p is None else body.top_p,
        "truncation": "disabled",
        "usage": None,
    }


def _sampling(body: Create, request: Request) -> dict[str, Any]:
    """Returns the sampling fields. Raises RequestError for what cannot be done."""
    form = (body.text or {}).get("format")
    wrong = {
        "text": form is not None and form != {"type": "text"},
        "background": bool(body.background),
        "conversation": body.conversation is not None,
        "prompt": body.prompt is not None,
        "top_logprobs": bool(body.top_logprobs),
        "tool_choice": body.tool_choice not in (None, "auto", "none"),
    }
    for name, is_wrong in wrong.items():
        if is_wrong:
            told = repr(getattr(body, name))[:80]
            raise RequestError(f"{name} {told} is not supported here; leave it out", name, code="unsupported_parameter")
    temperature = body.temperature or 0.0
    return {
        "max_tokens": limit_tokens(body.max_output_tokens, request),
        "temperature": temperature,
        "top_p": 1.0 if body.top_p is None else max(body.top_p, SMALLEST_SHARE),
        "seed": secrets.randbits(31) if temperature else 0,
    }


def read_history(body: Input, request: Request, offer: ToolOffer | None = None) -> History:
    """Returns the history of a request, with calls of the tools that it offers. Raises RequestError."""
    memory, key = request.app.state.responses, request.state.key
    before: tuple[Turn, ...] = ()
    if body.previous_response_id is not None:
        before = _find_turns(memory, key, body.previous_response_id, "previous_response_id")
    sent = body.input or []
    if isinstance(sent, str):
        added: tuple[Turn, ...] = (Turn(Role.USER, sent),)
    else:
        start = next((at + 1 for at in reversed(range(len(sent))) if sent[at].get("type") == _COMPACTION), 0)
        if start:
            before = _find_turns(memory, key, sent[start - 1].get("encrypted_content"), f"input[{start - 1}]")
        added = read_turns(sent, start, offer or ToolOffer())
        warn_of_media(request, (item.get(name) for item in sent for name in ("content", "output")))
    history = History(before, added)
    if not history.turns:
        raise RequestError("input is empty; send a text or a list of items", "input")
    for at, reason in find_orphans(history.turns)[:1]:
        where = f"input[{history.turns[at].source - 1}]" if at >= len(before) else "the history before input"
        raise RequestError(f"{where} {reason}", "input")
    return history


def _find_turns(memory: ResponseStore, key: str, name: object, where: str) -> tuple[Turn, ...]:
    turns = memory.find(key, name) if isinstance(name, str) else None
    if turns is None:
        told = f"{where} {str(name)[:80]!r} names nothing that is kept here (any more); send the history itself"
        raise RequestError(told, where, status=404, code="previous_response_not_found")
    return turns


def read_turns(sent: Sequence[Mapping[str, Any]], start: int, offer: ToolOffer) -> tuple[Turn, ...]:
    """Returns the items from `start` on as turns; an item without text is a line that says what was there.

    Raises RequestError for what is malformed.
    """
    items: list[Item] = []
    for number in range(start, len(sent)):
        item, where = sent[number], f"input[{number}]"
        type_ = item.get("type") or "message"
        if not isinstance(type_, str) or type_ == _REFERENCE:
            told = f"{where} is of type {str(type_)[:40]!r}, which cannot be read; send the item itself"
            raise RequestError(told, where)
        for name in _NEEDED.get(type_, ()):
            if not isinstance(item.get(name), str):
                raise RequestError(f"{where}: a {type_} needs {name}, a text", where)
        try:
            items.append(read_item(Entry(number + 1, dict(offer.read_call(item)))))
        except MalformedEntry as error:
            raise RequestError(f"{where}: {error}", where) from None
    return tuple(said.turn for said in group_items(items))
