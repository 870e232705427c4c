"""Anthropic's Messages: `/v1/messages`, streaming or whole, and `/v1/messages/count_tokens`.

A history that is sent again gives the same turns again: one for each message, and one for each tool result. Text that
the model writes after a call stands before it on the wire, in one block, as it does in the turn.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping
from contextlib import aclosing
from typing import Annotated, Any, Literal
from uuid import uuid4

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field

from holdfast.server.http import errors, sse
from holdfast.server.http.answer_stream import begin_answer
from holdfast.server.http.json_body import JsonRoute
from holdfast.server.protocol import (
    AnswerEnd,
    AnswerStart,
    GenerateOutput,
    GenerateRequest,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
)
from holdfast.server.wires.openai_common import SMALLEST_SHARE, limit_tokens
from holdfast.server.wires.request_warnings import tool_name, warn_of_media, warn_of_tools
from holdfast.transcript.content import read_content
from holdfast.transcript.cuts import find_orphans
from holdfast.transcript.document import MalformedEntry
from holdfast.transcript.formats.anthropic import turns_of
from holdfast.transcript.provider_requests import parse_arguments, to_anthropic_call
from holdfast.transcript.turn import Role, ToolCall, Turn
from holdfast.web.request_error import RequestError

router = APIRouter(
    tags=["Anthropic"],
    route_class=JsonRoute,
    responses={"4XX": {"model": errors.AnthropicError}, "5XX": {"model": errors.AnthropicError}},
)

_WHY = {
    "top_k": "sampling here is by temperature and top_p",
    "container": "no code is run here",
    "mcp_servers": "no tool is run here",
}
_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}


class Prompt(BaseModel):
    """The prompt that the model reads."""

    model: str
    """Any name: the server has one model, and says which in its answer."""
    messages: Annotated[list[dict[str, Any]], Field(min_length=1)]
    system: str | list[dict[str, Any]] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: dict[str, Any] | None = None


class Create(Prompt):
    """A request for an answer. What only shapes billing or thinking on the provider's side is accepted and unused."""

    max_tokens: Annotated[int, Field(ge=1, lt=2**31)]
    stop_sequences: list[Annotated[str, Field(min_length=1)]] | None = None
    temperature: Annotated[float, Field(ge=0, le=1)] | None = None
    """Default 0: the likeliest token each time."""
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    stream: bool | None = None
    top_k: int | None = None
    container: Any = None
    mcp_servers: list[Any] | None = None
    output_config: dict[str, Any] | None = None


class Usage(BaseModel):
    """The tokens of one request. The whole prompt is `input_tokens` and `cache_read_input_tokens`."""

    input_tokens: int
    cache_creation_input_tokens: int
    cache_read_input_tokens: int = Field(description="Those that the session already held.")
    output_tokens: int


class Message(BaseModel):
    """An answer."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[dict[str, Any]]
    stop_reason: Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"]
    stop_sequence: str | None
    usage: Usage
    holdfast: dict[str, Any] = Field(description="The session: slots, bytes, compactions, evidence.")


_SPOKEN: dict[int | str, dict[str, Any]] = {
    200: {"model": Message, "description": "An answer; with `stream`, events.", "content": {sse.TYPE: {}}}
}


@router.post("/v1/messages", responses=_SPOKEN)
async def create(request: Request, body: Create) -> Response:
    """Continues a history with an answer."""
    events = await begin_answer(request, await run_in_threadpool(read_request, body, request))
    model, made = request.app.state.host.model, f"msg_{uuid4().hex[:24]}"
    if body.stream:
        return sse.Stream(request, stream_message(events, model, made))
    async with aclosing(events):
        said = [event async for event in events]
    return JSONResponse(whole_message(said, model, made))


@router.post("/v1/messages/count_tokens")
async def count_tokens(request: Request, body: Prompt) -> dict[str, int]:
    """Returns the tokens of the prompt as the model reads it, without reading it."""

    def count() -> int:
        ask = GenerateRequest(read_turns(body), read_tools(body, request), request.state.key)
        return int(request.app.state.host.count(ask))

    return {"input_tokens": await run_in_threadpool(count)}


def read_request(body: Create, request: Request) -> GenerateRequest:
    """Returns the request in the host's terms. Raises RequestError for what cannot be served as it is meant."""
    for name, why in _WHY.items():
        if getattr(body, name):
            raise RequestError(f"{name} is not supported: {why}; leave it out", param=name)
    if body.output_config and body.output_config.get("format"):
        raise RequestError(
            "output_config.format is not supported: nothing here holds an answer to a schema; leave it out"
        )
    if body.messages[-1].get("role") == "assistant":
        raise RequestError(
            "the last message is the assistant's, and answers are not continued here; end with the user's"
        )
    temperature = body.temperature or 0.0
    warn_of_media(request, (message.get("content") for message in body.messages))
    return GenerateRequest(
        read_turns(body),
        read_tools(body, request),
        request.state.key,
        max_tokens=limit_tokens(body.max_tokens, request),
        temperature=temperature,
        top_p=1.0 if body.top_p is None else max(body.top_p, SMALLEST_SHARE),
        seed=secrets.randbits(31) if temperature else 0,
        stop=tuple(body.stop_sequences or ()),
    )


def read_turns(body: Prompt) -> tuple[Turn, ...]:
    """Returns system prompt and messages as turns; a block without text is a line that says what was there.

    Raises RequestError for what is malformed.
    """
    turns: list[Turn] = []
    try:
        if body.system:
            _check(body.system, "system")
            turns.append(Turn(Role.SYSTEM, read_content(body.system).text))
    except MalformedEntry as error:
        raise RequestError(f"system: {error}") from None
    for number, sent in enumerate(body.messages):
        try:
            _check(sent.get("content"), f"messages.{number}.content")
            turns += turns_of(sent, number)
        except MalformedEntry as error:
            raise RequestError(f"messages.{number}: {error}") from None
    for at, reason in find_orphans(turns):
        raise RequestError(f"messages.{turns[at].source}: it {reason}; send each tool_use with its tool_result")
    return tuple(turns)


def _check(content: object, where: str) -> None:
    """Refuses blocks that are none of this wire: each has a type."""
    for number, block in enumerate(content if isinstance(content, list) else ()):
        type_ = block.get("type") if isinstance(block, dict) else None
        if not (isinstance(type_, str) and type_):
            raise RequestError(f"{where}.{number}: a block without a type cannot be read; give it one, as text")
        if type_ == "tool_result":
            _check(block.get("content"), f"{where}.{number}.content")


def read_tools(body: Prompt, request: Request) -> tuple[Mapping[str, Any], ...]:
    """Returns the tools as OpenAI functions, none if the caller wants no call; those of the provider are left out.

    Raises RequestError.
    """
    choice = (body.tool_choice or {}).get("type", "auto")
    if choice not in ("auto", "none"):
        raise RequestError(
            f"tool_choice {str(choice)[:40]!r} is not supported: no call can be forced; use auto or none"
        )
    tools, own = list(enumerate(body.tools or ())), (None, "custom")
    functions = [_function(tool, f"tools.{number}") for number, tool in tools if tool.get("type") in own]
    foreign = [tool_name(tool) for _, tool in tools if tool.get("type") not in own]
    warn_of_tools(request, foreign, "they are the provider's, and no tool is run here")
    return () if choice == "none" else tuple(functions)


def _function(tool: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    name, schema, description = tool.get("name"), tool.get("input_schema"), tool.get("description") or ""
    if not (isinstance(name, str) and name and isinstance(schema, dict) and isinstance(description, str)):
        raise RequestError(
            f"{where}: expected a name (text), an input_schema (an object) and perhaps a description (text)"
        )
    told = {"description": description} if description else {}  # as the other wires leave it out, to be the same tool
    return {"type": "function", "function": {"name": name, **told, "parameters": schema}}


def whole_message(events: Iterable[GenerateOutput], model: str, made: str) -> dict[str, Any]:
    """Returns the whole answer."""
    said = list(events)
    (end,) = (event for event in said if isinstance(event, AnswerEnd))
    blocks = [_fill_block(block, said) for block in ("thinking", "text")]
    calls = [to_anthropic_call(event.call) for event in said if isinstance(event, ToolCallDelta)]
    return {
        **_head(model, made),
        "content": [*(block for block in blocks if block), *calls],
        **_stop(end),
        "usage": _usage(end, end.completion_tokens),
        "holdfast": dict(end.extension),
    }


def _fill_block(kind: str, events: Iterable[GenerateOutput]) -> dict[str, Any]:
    wanted = ReasoningDelta if kind == "thinking" else TextDelta
    text = "".join(event.text for event in events if isinstance(event, wanted))
    return {**_empty_block(kind), kind: text} if text else {}


def _empty_block(kind: str) -> dict[str, Any]:
    """Returns a block before anything is said in it. Thinking here bears no signature: nobody checks it."""
    return {"type": kind, kind: ""} | ({"signature": ""} if kind == "thinking" else {})


def _head(model: str, made: str) -> dict[str, Any]:
    return {"id": made, "type": "message", "role": "assistant", "model": model}


def _stop(end: AnswerEnd) -> dict[str, Any]:
    reason = "stop_sequence" if end.stopped_by else _REASONS[end.reason]
    return {"stop_reason": reason, "stop_sequence": end.stopped_by or None}


def _usage(told: AnswerStart | AnswerEnd, output: int) -> dict[str, int]:
    return {
        "input_tokens": told.prompt_tokens - told.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": told.cached_tokens,
        "output_tokens": output,
    }


async def stream_message(events: AsyncGenerator[GenerateOutput], model: str, made: str) -> AsyncGenerator[bytes]:
    """Yields the answer as the provider's events. Blocks are numbered in the order in which they open."""
    blocks = Blocks()
    async with aclosing(events):
        async for event in events:
            for told in _wire_events(event, blocks, {**_head(model, made), "content": []}):
                yield sse.event(told, told["type"])


def _wire_events(event: GenerateOutput, blocks: Blocks, head: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    if isinstance(event, AnswerStart):
        stop = {"stop_reason": None, "stop_sequence": None}
        yield {"type": "message_start", "message": {**head, **stop, "usage": _usage(event, 0)}}
        yield {"type": "ping"}
    elif isinstance(event, TextDelta):
        yield from blocks.say("text", event.text)
    elif isinstance(event, ReasoningDelta):
        yield from blocks.say("thinking", event.text)
    elif isinstance(event, ToolCallDelta):
        blocks.calls.append(event.call)
    else:
        yield from blocks.end()
        usage = _usage(event, event.completion_tokens)
        yield {"type": "message_delta", "delta": _stop(event), "usage": usage, "holdfast": dict(event.extension)}
        yield {"type": "message_stop"}


class Blocks:
    """The content of an answer as it is streamed. Calls wait for its end, so that all its text is one block."""

    def __init__(self) -> None:
        self.calls: list[ToolCall] = []
        self._count = 0
        self._open: Literal["", "text", "thinking"] = ""

    def say(self, kind: Literal["text", "thinking"], text: str) -> Iterator[dict[str, Any]]:
        if self._open != kind:
            yield from self._close()
            self._open = kind
            yield self._event("content_block_start", content_block=_empty_block(kind))
        yield self._event("content_block_delta", delta={"type": f"{kind}_delta", kind: text})

    def end(self) -> Iterator[dict[str, Any]]:
        yield from self._close()
        for call in self.calls:
            yield self._event("content_block_start", content_block={**to_anthropic_call(call), "input": {}})
            written = json.dumps(parse_arguments(call), ensure_ascii=False)
            yield self._event("content_block_delta", delta={"type": "input_json_delta", "partial_json": written})
            yield self._stop()

    def _close(self) -> Iterator[dict[str, Any]]:
        if self._open:
            yield self._stop()
            self._open = ""

    def _stop(self) -> dict[str, Any]:
        self._count += 1
        return {"type": "content_block_stop", "index": self._count - 1}

    def _event(self, type_: str, **fields: Any) -> dict[str, Any]:
        return {"type": type_, "index": self._count, **fields}
