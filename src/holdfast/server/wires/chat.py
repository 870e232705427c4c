"""OpenAI's chat completions."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field, WithJsonSchema

from holdfast.errors import BadTranscript, Failed
from holdfast.server.http import sse
from holdfast.server.http.answer_stream import begin_answer
from holdfast.server.http.json_body import JsonRoute
from holdfast.server.protocol import (
    AnswerEnd,
    GenerateOutput,
    GenerateRequest,
    Logprob,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
)
from holdfast.server.wires.openai_common import Common, Usage, chat_logprobs, limit_tokens, usage_fields
from holdfast.server.wires.request_warnings import tool_name, warn_of_media, warn_of_tools
from holdfast.transcript.cuts import find_orphans
from holdfast.transcript.document import Entry, MalformedEntry
from holdfast.transcript.formats.openai_chat import ROLES, pair_by_order, turn_of
from holdfast.transcript.provider_requests import to_openai_call
from holdfast.transcript.turn import ToolCall, Turn
from holdfast.web.request_error import RequestError

router = APIRouter(tags=["OpenAI"], route_class=JsonRoute)
_FOREIGN = "tool_result"  # Anthropic's: read as a part it would answer no call

Message = Annotated[
    dict[str, Any],
    WithJsonSchema(
        {
            "type": "object",
            "required": ["role"],
            "properties": {
                "role": {"enum": list(ROLES)},
                "content": {"anyOf": [{"type": "string"}, {"type": "array"}, {"type": "null"}]},
                "tool_calls": {"type": "array", "items": {"type": "object"}},
                "tool_call_id": {"type": "string"},
            },
        }
    ),
]


class Function(BaseModel):
    """A tool's name and what it takes."""

    name: str = Field(min_length=1, max_length=256)
    description: str | None = None
    parameters: dict[str, Any] | None = None


class Tool(BaseModel, extra="allow"):
    """A function that the model may call. Tools of other types are left out, and a header says so."""

    type: str = "function"
    function: Function | None = None


class ChatRequest(Common):
    """A whole history, and how to go on."""

    messages: list[Message] = Field(min_length=1)
    tools: list[Tool] | None = None
    tool_choice: str | dict[str, Any] | None = Field(None, description="auto or none; a call cannot be forced.")
    parallel_tool_calls: bool | None = Field(None, description="Taken, not enforced.")
    max_completion_tokens: int | None = Field(None, ge=1, lt=2**31)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    response_format: dict[str, Any] | None = Field(None, description="text and nothing else.")
    functions: list[Any] | None = Field(None, description="Not supported: use tools.")
    modalities: list[str] | None = Field(None, description="text and nothing else.")


class ReplyMessage(BaseModel):
    """The message of the model."""

    role: Literal["assistant"]
    content: str | None
    refusal: None = None
    reasoning_content: str | None = None
    tool_calls: list[dict[str, Any]] | None = None


class Choice(BaseModel):
    """The one answer."""

    index: int
    message: ReplyMessage
    finish_reason: Literal["stop", "length", "tool_calls"]
    logprobs: dict[str, Any] | None = None


class ChatCompletion(BaseModel):
    """An answer."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[Choice]
    usage: Usage
    holdfast: dict[str, Any] = Field(description="The session: slots, bytes, compactions, evidence.")


_SPOKEN: dict[int | str, dict[str, Any]] = {
    200: {"model": ChatCompletion, "description": "An answer; with `stream`, events.", "content": {sse.TYPE: {}}}
}


@router.post("/v1/chat/completions", responses=_SPOKEN)
async def chat_completions(body: ChatRequest, request: Request) -> Response:
    """Continues a history with an answer; the part that a session already holds is not read again."""
    head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": request.app.state.host.model}
    events = await begin_answer(request, await run_in_threadpool(read_request, body, request))
    if body.stream:
        return sse.Stream(request, _chunks(body, events, {**head, "object": "chat.completion.chunk"}))
    return JSONResponse({**head, "object": "chat.completion", **await _whole(body, events)})


def read_request(body: ChatRequest, request: Request) -> GenerateRequest:
    """Returns the request in the host's terms. Raises RequestError."""
    body.refuse(
        response_format=(body.response_format or {}).get("type", "text") != "text",
        functions=bool(body.functions),
        modalities=body.modalities not in (None, [], ["text"]),
        tool_choice=body.tool_choice not in (None, "auto", "none"),
        top_logprobs=bool(body.top_logprobs) and not body.logprobs,
    )
    tools = read_tools(body, request)
    warn_of_media(request, (message.get("content") for message in body.messages))
    return GenerateRequest(
        turns=read_turns(body.messages),
        tools=tools,
        key=request.state.key,
        max_tokens=limit_tokens(body.max_completion_tokens or body.max_tokens, request),
        logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        **body.sampling_fields(),
    )


def read_tools(body: ChatRequest, request: Request) -> tuple[Mapping[str, Any], ...]:
    """Returns the functions that the model may call, none if the caller wants no call. Raises RequestError."""
    tools = body.tools or []
    for number, tool in enumerate(tools):
        if tool.type == "function" and tool.function is None:
            raise RequestError(f"tools[{number}] needs a function with a name", f"tools[{number}].function")
    foreign = [tool_name(tool.model_dump()) for tool in tools if tool.type != "function"]
    warn_of_tools(request, foreign, "only functions can be given here")
    own = () if body.tool_choice == "none" else tuple(tool for tool in tools if tool.function is not None)
    return tuple(
        {"type": tool.type, "function": tool.function.model_dump(exclude_unset=True)}
        for tool in own
        if tool.type == "function" and tool.function
    )


def read_turns(messages: Sequence[Mapping[str, Any]]) -> tuple[Turn, ...]:
    """Returns one turn for each message, read by itself: what a message means never depends on those behind it, so a
    history that grew still begins with the turns that it had. Raises RequestError.
    """
    turns = pair_by_order(_turn(number, message) for number, message in enumerate(messages))
    for at, reason in find_orphans(turns)[:1]:
        raise RequestError(f"messages[{at}] {reason}", f"messages[{at}]")
    return turns


def _turn(number: int, message: Mapping[str, Any]) -> Turn:
    content = message.get("content")
    for place, part in enumerate(content if isinstance(content, list) else ()):
        if isinstance(part, Mapping) and part.get("type") == _FOREIGN:
            where = f"messages[{number}].content[{place}]"
            raise RequestError(f"{where} is of type {_FOREIGN!r}; send a message with role tool", where)
    try:
        return turn_of(Entry(number + 1, dict(message)))
    except (MalformedEntry, BadTranscript) as error:
        raise RequestError(f"messages[{number}]: {error}", f"messages[{number}]") from None


async def _whole(body: ChatRequest, events: AsyncGenerator[GenerateOutput]) -> dict[str, Any]:
    told: list[Logprob] = []
    async with aclosing(events):
        async for event in events:
            if isinstance(event, TextDelta):
                told += event.logprobs
            elif isinstance(event, AnswerEnd):
                logprobs = chat_logprobs(told) if body.logprobs else None
                choice = {"index": 0, "message": _message(event.turn), "finish_reason": event.reason}
                return {
                    "choices": [{**choice, "logprobs": logprobs}],
                    "usage": usage_fields(event),
                    "holdfast": dict(event.extension),
                }
    raise Failed("the answer broke off without an end")


def _message(turn: Turn) -> dict[str, Any]:
    content = turn.text or (None if turn.calls else "")
    message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
    if turn.reasoning:
        message["reasoning_content"] = turn.reasoning
    if turn.calls:
        message["tool_calls"] = [to_openai_call(call) for call in turn.calls]
    return message


async def _chunks(
    body: ChatRequest, events: AsyncGenerator[GenerateOutput], head: Mapping[str, Any]
) -> AsyncGenerator[bytes]:
    """Yields the answer as chunks; the last one has `holdfast` beside it."""
    unsaid = {"usage": None} if body.tells_usage else {}

    def chunk(delta: Mapping[str, Any], reason: str | None = None, **beside: Any) -> bytes:
        logprobs = beside.pop("logprobs", None)
        choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        return sse.event({**head, "choices": [choice], **unsaid, **beside})

    calls = 0
    async with aclosing(events):
        yield chunk({"role": "assistant", "content": "", "refusal": None})
        async for event in events:
            if isinstance(event, TextDelta):
                yield chunk({"content": event.text}, logprobs=chat_logprobs(event.logprobs) if body.logprobs else None)
            elif isinstance(event, ReasoningDelta):
                yield chunk({"reasoning_content": event.text})
            elif isinstance(event, ToolCallDelta):
                yield chunk({"tool_calls": [_call(event.call, calls)]})
                calls += 1
            elif isinstance(event, AnswerEnd):
                extension = {"holdfast": dict(event.extension)}
                yield chunk({}, event.reason, **({} if body.tells_usage else extension))
                if body.tells_usage:
                    yield sse.event({**head, "choices": [], "usage": usage_fields(event), **extension})
                yield sse.DONE


def _call(call: ToolCall, index: int) -> dict[str, Any]:
    return {"index": index, **to_openai_call(call)}
