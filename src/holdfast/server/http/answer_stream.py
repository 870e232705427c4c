"""Between a host that blocks and a server that must not: an answer runs on a thread and is buffered.

A slow reader never holds the model: the answer is made at the model's pace and waits in memory, bounded by its limit.
A reader that goes away ends the answer at its next token.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping
from concurrent.futures import Executor
from contextlib import aclosing, suppress
from dataclasses import replace
from threading import Event as Flag
from typing import Any

from starlette.requests import Request

from holdfast.server.http.errors import TimedOut
from holdfast.server.protocol import AnswerEnd, GenerateOutput, GenerateRequest, Host


async def begin_answer(request: Request, ask: GenerateRequest) -> AsyncGenerator[GenerateOutput]:
    """Returns the events of an answer within the server's limits, once the first is there: what fails before it is
    raised here and can still be an ordinary response.
    """
    state, began = request.app.state, time.perf_counter()
    if ask.tools and not state.host.shows_tools:
        names = ", ".join(str(tool.get("function", {}).get("name"))[:80] for tool in ask.tools)
        request.state.warnings.append(f"tools not shown: the chat template of {state.host.model} has none ({names})")
    warnings = {"warnings": list(request.state.warnings)} if request.state.warnings else {}
    events = stream_answer(state.host, ask, state.pool, state.settings.seconds)
    first = await anext(events)

    async def go_on() -> AsyncGenerator[GenerateOutput]:
        async with aclosing(events):
            yield first
            silent = True
            async for event in events:
                if silent:
                    state.metrics.of(request.state.key).first_token.observe(time.perf_counter() - began)
                    silent = False
                yield _add_to_end(event, warnings)

    return go_on()


def _add_to_end(event: GenerateOutput, fields: Mapping[str, Any]) -> GenerateOutput:
    """Returns an event, with further fields in its `holdfast` if it is the last one."""
    if not (fields and isinstance(event, AnswerEnd)):
        return event
    return replace(event, extension={**event.extension, **fields})


async def stream_answer(
    host: Host, ask: GenerateRequest, pool: Executor, seconds: float | None = None
) -> AsyncGenerator[GenerateOutput]:
    """Yields the events of `host.complete`, made on `pool`. Raises what the host raises, and TimedOut
    after `seconds`.
    """
    loop, gone = asyncio.get_running_loop(), Flag()
    waiting: asyncio.Queue[GenerateOutput | BaseException | None] = asyncio.Queue()
    deadline = None if seconds is None else loop.time() + seconds

    def tell(item: GenerateOutput | BaseException | None) -> None:
        with suppress(RuntimeError):  # the loop has ended, and with it whoever waited
            loop.call_soon_threadsafe(waiting.put_nowait, item)

    def work() -> None:
        if gone.is_set():
            return
        events = host.complete(ask)
        try:
            for event in events:
                if gone.is_set():
                    break
                tell(event)
            tell(None)
        except BaseException as error:
            tell(error)
        finally:
            events.close()  # type: ignore[attr-defined]

    running = loop.run_in_executor(pool, work)
    try:
        while (item := await _next(waiting, deadline, seconds)) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
        await running
    finally:
        gone.set()


async def _next(
    waiting: asyncio.Queue[GenerateOutput | BaseException | None], deadline: float | None, seconds: float | None
) -> GenerateOutput | BaseException | None:
    try:
        async with asyncio.timeout_at(deadline):
            return await waiting.get()
    except TimeoutError:
        raise TimedOut(f"the answer took longer than the {seconds:g} seconds that this server allows") from None
