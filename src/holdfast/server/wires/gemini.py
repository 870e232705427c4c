"""Google's Gemini: `/v1beta/models/MODEL:generateContent`, `:streamGenerateContent` as events, and `:countTokens`."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing
from typing import Annotated, Any
from uuid import uuid4

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from holdfast.server.http import errors, sse
from holdfast.server.http.answer_stream import begin_answer
from holdfast.server.http.json_body import JsonRoute
from holdfast.server.protocol import (
    AnswerEnd,
    GenerateOutput,
    GenerateRequest,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
)
from holdfast.server.wires.openai_common import SMALLEST_SHARE, limit_tokens
from holdfast.server.wires.request_warnings import warn, warn_of_tools
from holdfast.transcript.cuts import find_orphans
from holdfast.transcript.document import Entry, MalformedEntry
from holdfast.transcript.formats.gemini_cli import read_gemini_parts, turns_of
from holdfast.transcript.formats.openai_chat import pair_by_order
from holdfast.transcript.provider_requests import parse_arguments
from holdfast.transcript.turn import Role, Turn
from holdfast.web.request_error import RequestError

router = APIRouter(
    tags=["Gemini"],
    route_class=JsonRoute,
    responses={"4XX": {"model": errors.GeminiError}, "5XX": {"model": errors.GeminiError}},
)

_FINISH = {"stop": "STOP", "length": "MAX_TOKENS", "tool_calls": "STOP"}
_FUNCTIONS = ("functionDeclarations", "function_declarations")
_MEDIA = ("inlineData", "inline_data", "fileData", "file_data")


class _Wire(BaseModel):
    """Fields in Google's spelling, or as their Python SDK writes them. Unknown ones are ignored."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)


class GenerationConfig(_Wire):
    """The settings of an answer."""

    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    """Default 0: the likeliest token each time."""
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    max_output_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    stop_sequences: list[Annotated[str, Field(min_length=1)]] | None = None
    response_mime_type: str | None = None


class Generate(_Wire):
    """A history, and how to go on."""

    contents: Annotated[list[dict[str, Any]], Field(min_length=1)]
    system_instruction: dict[str, Any] | str | None = None
    tools: list[dict[str, Any]] | None = None
    tool_config: dict[str, Any] | None = None
    generation_config: GenerationConfig | None = None


class Count(_Wire):
    """A prompt whose tokens are counted."""

    contents: list[dict[str, Any]] | None = None
    generate_content_request: Generate | None = None


@router.get("/v1beta/models")
async def models(request: Request) -> dict[str, Any]:
    """Lists the one model."""
    host, settings = request.app.state.host, request.app.state.settings
    own = {"name": f"models/{host.model}", "displayName": host.model, "inputTokenLimit": host.window}
    methods = ["generateContent", "countTokens"]
    return {"models": [{**own, "outputTokenLimit": settings.max_tokens, "supportedGenerationMethods": methods}]}


@router.post("/v1beta/models/{model}:generateContent")
async def generate(model: str, request: Request, body: Generate) -> Response:
    """Continues a history with an answer."""
    events = await begin_answer(request, await run_in_threadpool(read_request, body, request))
    async with aclosing(events):
        said = [event async for event in events]
    parts = [part for event in said for part in _parts(event)]
    (end,) = (event for event in said if isinstance(event, AnswerEnd))
    return JSONResponse(_answer(_join_texts(parts), request.app.state.host.model, f"{uuid4().hex}", end))


@router.post("/v1beta/models/{model}:streamGenerateContent")
async def stream(model: str, request: Request, body: Generate) -> Response:
    """Continues a history with an answer, as events."""
    events = await begin_answer(request, await run_in_threadpool(read_request, body, request))
    return sse.Stream(request, _stream(events, request.app.state.host.model, uuid4().hex))


@router.post("/v1beta/models/{model}:countTokens")
async def count_tokens(model: str, request: Request, body: Count) -> dict[str, int]:
    """Returns the tokens of the prompt as the model reads it, without reading it."""

    def count() -> int:
        if not (body.contents or body.generate_content_request):
            raise RequestError("countTokens needs contents or a generateContentRequest")
        whole = body.generate_content_request or Generate(contents=body.contents or [])
        ask = GenerateRequest(read_turns(whole, request), read_tools(whole, request), request.state.key)
        return int(request.app.state.host.count(ask))

    return {"totalTokens": await run_in_threadpool(count)}


def read_request(body: Generate, request: Request) -> GenerateRequest:
    """Returns the request in the host's terms. Raises RequestError."""
    how = body.generation_config or GenerationConfig()
    if how.response_mime_type not in (None, "text/plain"):
        warn(request, f"responseMimeType {how.response_mime_type[:80]} is not enforced")
    temperature = how.temperature or 0.0
    return GenerateRequest(
        read_turns(body, request),
        read_tools(body, request),
        request.state.key,
        max_tokens=limit_tokens(how.max_output_tokens, request),
        temperature=temperature,
        top_p=1.0 if how.top_p is None else max(how.top_p, SMALLEST_SHARE),
        seed=secrets.randbits(31) if temperature else 0,
        stop=tuple(how.stop_sequences or ()),
    )


def read_turns(body: Generate, request: Request) -> tuple[Turn, ...]:
    """Returns system instruction and contents as turns. Raises RequestError for what is malformed."""
    turns: list[Turn] = []
    try:
        given = body.system_instruction
        content = given.get("parts") if isinstance(given, dict) else given
        if text := "\n".join(read_gemini_parts(content).texts):
            turns.append(Turn(Role.SYSTEM, text))
        for number, sent in enumerate(body.contents):
            if not isinstance(sent.get("parts"), list):
                raise MalformedEntry(f"contents[{number}] has no list of parts")
            role = "model" if sent.get("role") == "model" else "user"  # results came as "function" once
            turns += turns_of(Entry(number + 1, {**sent, "role": role}))
            if media := [name for part in sent["parts"] for name in _MEDIA if isinstance(part, dict) and name in part]:
                warn(request, f"not read: {len(media)} files of contents[{number}] (the model here reads text)")
    except MalformedEntry as error:
        raise RequestError(f"contents: {error}") from None
    paired = pair_by_order(turns)
    for at, reason in find_orphans(paired)[:1]:
        raise RequestError(f"contents[{paired[at].source - 1}] {reason}")
    return paired


def read_tools(body: Generate, request: Request) -> tuple[Mapping[str, Any], ...]:
    """Returns the functions that the model may call, none if the caller wants no call. Raises RequestError."""
    mode = ((body.tool_config or {}).get("functionCallingConfig") or {}).get("mode")
    if mode not in (None, "AUTO", "NONE", "MODE_UNSPECIFIED", "VALIDATED"):
        raise RequestError(f"functionCallingConfig.mode {str(mode)[:40]!r}: no call can be forced; use AUTO or NONE")
    tools = [(name, value) for tool in body.tools or () for name, value in tool.items()]
    foreign = [name for name, _ in tools if name not in _FUNCTIONS]
    warn_of_tools(request, foreign, "they are the provider's, and no tool is run here")
    declared = [
        one for name, value in tools if name in _FUNCTIONS for one in (value if isinstance(value, list) else [])
    ]
    return () if mode == "NONE" else tuple(map(_function, declared))


def _function(declared: object) -> Mapping[str, Any]:
    fields = declared if isinstance(declared, dict) else {}
    name, description = fields.get("name"), fields.get("description")
    schema = fields.get("parametersJsonSchema", fields.get("parameters"))
    if not (isinstance(name, str) and name and isinstance(description, str | None) and isinstance(schema, dict | None)):
        raise RequestError("a functionDeclaration needs a name (a text) and perhaps parameters (an object)")
    given = {"name": name, "description": description, "parameters": schema and _lower_types(schema)}
    return {"type": "function", "function": {key: value for key, value in given.items() if value is not None}}


def _lower_types(schema: Any) -> Any:
    """Returns a schema with the types of JSON Schema: Google writes them in capitals."""
    if isinstance(schema, list):
        return [_lower_types(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    named = {key: _lower_types(value) for key, value in schema.items()}
    return {**named, "type": named["type"].lower()} if isinstance(named.get("type"), str) else named


async def _stream(events: AsyncGenerator[GenerateOutput], model: str, made: str) -> AsyncGenerator[bytes]:
    """Yields the answer as the provider's chunks; calls wait for its end, as they do on the other wires."""
    calls: list[dict[str, Any]] = []
    async with aclosing(events):
        async for event in events:
            if isinstance(event, ToolCallDelta):
                calls += _parts(event)
            elif isinstance(event, AnswerEnd):
                yield sse.event(_answer(calls, model, made, event))
            elif parts := list(_parts(event)):
                yield sse.event(_answer(parts, model, made))


def _parts(event: GenerateOutput) -> Iterator[dict[str, Any]]:
    if isinstance(event, TextDelta):
        yield {"text": event.text}
    elif isinstance(event, ReasoningDelta):
        yield {"text": event.text, "thought": True}
    elif isinstance(event, ToolCallDelta):
        call = event.call
        yield {"functionCall": {"id": call.id, "name": call.name, "args": parse_arguments(call)}}


def _join_texts(parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Joins the pieces of a text, and those of a thought."""
    joined: list[dict[str, Any]] = []
    for part in parts:
        last = joined[-1] if joined else {}
        if "text" in part and "text" in last and part.get("thought") == last.get("thought"):
            joined[-1] = {**last, "text": last["text"] + part["text"]}
        else:
            joined.append(part)
    return joined


def _answer(parts: list[dict[str, Any]], model: str, made: str, end: AnswerEnd | None = None) -> dict[str, Any]:
    """Returns a chunk of an answer; the last one says why it ended and what was used."""
    finish = {"finishReason": _FINISH[end.reason]} if end else {}
    candidate = {"content": {"role": "model", "parts": parts}, "index": 0, **finish}
    chunk: dict[str, Any] = {"candidates": [candidate], "modelVersion": model, "responseId": made}
    if end:
        chunk["usageMetadata"] = {
            "promptTokenCount": end.prompt_tokens,
            "cachedContentTokenCount": end.cached_tokens,
            "candidatesTokenCount": end.completion_tokens,
            "totalTokenCount": end.prompt_tokens + end.completion_tokens,
        }
        chunk["holdfast"] = dict(end.extension)
    return chunk
