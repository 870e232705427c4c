"""OpenAI's completions: a plain text goes on, without template and session."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field

from holdfast.errors import Failed
from holdfast.server.http import sse
from holdfast.server.http.answer_stream import begin_answer
from holdfast.server.http.json_body import JsonRoute
from holdfast.server.protocol import AnswerEnd, GenerateOutput, GenerateRequest, Logprob, TextDelta
from holdfast.server.wires.openai_common import Common, Usage, legacy_logprobs, limit_tokens, usage_fields

router = APIRouter(tags=["OpenAI"], route_class=JsonRoute)
DEFAULT_TOKENS = 16  # OpenAI's own
Text = Annotated[str, Field(min_length=1)]


class CompletionRequest(Common):
    """A text, and how to go on."""

    prompt: Text | Annotated[list[Text], Field(min_length=1, max_length=1)]
    logprobs: int | None = Field(None, ge=0, le=5)
    echo: bool | None = Field(None, description="Not supported.")
    best_of: int | None = Field(None, description="1 and nothing else.")
    suffix: str | None = Field(None, description="Not supported.")


class Continuation(BaseModel):
    """The one answer."""

    index: int
    text: str
    finish_reason: Literal["stop", "length"]
    logprobs: dict[str, Any] | None = None


class Completion(BaseModel):
    """The continuation of a text."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[Continuation]
    usage: Usage
    holdfast: dict[str, Any]


_SPOKEN: dict[int | str, dict[str, Any]] = {
    200: {"model": Completion, "description": "A text; with `stream`, events.", "content": {sse.TYPE: {}}}
}


@router.post("/v1/completions", responses=_SPOKEN)
async def completions(body: CompletionRequest, request: Request) -> Response:
    """Continues a text."""
    head = {
        "id": f"cmpl-{uuid.uuid4().hex}",
        "object": "text_completion",
        "created": int(time.time()),
        "model": request.app.state.host.model,
    }
    events = await begin_answer(request, await run_in_threadpool(read_request, body, request))
    if body.stream:
        return sse.Stream(request, _chunks(body, events, head))
    return JSONResponse({**head, **await _whole(body, events)})


def read_request(body: CompletionRequest, request: Request) -> GenerateRequest:
    """Returns the request in the host's terms. Raises RequestError."""
    body.refuse(echo=bool(body.echo), best_of=body.best_of not in (None, 1), suffix=bool(body.suffix))
    return GenerateRequest(
        prompt=body.prompt if isinstance(body.prompt, str) else body.prompt[0],
        key=request.state.key,
        max_tokens=limit_tokens(body.max_tokens or DEFAULT_TOKENS, request),
        logprobs=body.logprobs,
        **body.sampling_fields(),
    )


async def _whole(body: CompletionRequest, events: AsyncGenerator[GenerateOutput]) -> dict[str, Any]:
    told: list[Logprob] = []
    async with aclosing(events):
        async for event in events:
            if isinstance(event, TextDelta):
                told += event.logprobs
            elif isinstance(event, AnswerEnd):
                logprobs = None if body.logprobs is None else legacy_logprobs(told, 0)
                choice = {"index": 0, "text": event.turn.text, "finish_reason": event.reason, "logprobs": logprobs}
                return {"choices": [choice], "usage": usage_fields(event), "holdfast": dict(event.extension)}
    raise Failed("the answer broke off without an end")


async def _chunks(
    body: CompletionRequest, events: AsyncGenerator[GenerateOutput], head: Mapping[str, Any]
) -> AsyncGenerator[bytes]:
    unsaid = {"usage": None} if body.tells_usage else {}
    offset = 0

    def chunk(text: str, reason: str | None, logprobs: Any = None, **beside: Any) -> bytes:
        choice = {"index": 0, "text": text, "finish_reason": reason, "logprobs": logprobs}
        return sse.event({**head, "choices": [choice], **unsaid, **beside})

    async with aclosing(events):
        async for event in events:
            if isinstance(event, TextDelta):
                yield chunk(
                    event.text, None, None if body.logprobs is None else legacy_logprobs(event.logprobs, offset)
                )
                offset += len(event.text)
            elif isinstance(event, AnswerEnd):
                extension = {"holdfast": dict(event.extension)}
                yield chunk("", event.reason, **({} if body.tells_usage else extension))
                if body.tells_usage:
                    yield sse.event({**head, "choices": [], "usage": usage_fields(event), **extension})
                yield sse.DONE
