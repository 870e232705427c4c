"""Server-sent events: how an answer reaches a client piece by piece, and how it ends when it fails on the way."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

from fastapi.responses import StreamingResponse
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from holdfast.server.http import errors

log = logging.getLogger("holdfast.server")
TYPE = "text/event-stream"
DONE = b"data: [DONE]\n\n"


def event(data: Any, name: str = "") -> bytes:
    """Returns one event as bytes; Anthropic's and the Responses' have names."""
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(data, ensure_ascii=False, allow_nan=False)}\n\n".encode()


class Stream(StreamingResponse):
    """Events from a generator, which is closed when they end or the reader is gone."""

    def __init__(self, request: Request, events: AsyncGenerator[bytes]) -> None:
        self.events = events
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}  # a proxy in between must not collect
        super().__init__(report_errors(events, request.url.path), media_type=TYPE, headers=headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self.events):
            await super().__call__(scope, receive, send)


async def report_errors(events: AsyncGenerator[bytes], path: str) -> AsyncIterator[bytes]:
    """Yields the events, and an error as the last one: the status is long sent."""
    try:
        async for one in events:
            yield one
    except Exception as error:
        problem = errors.problem_of(error)
        if problem.status == 500:
            log.exception("answer to %s", path)
        yield event(errors.error_body(problem, path), "error" if errors.ANTHROPIC_PATHS.match(path) else "")
