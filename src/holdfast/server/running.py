"""Between a host that blocks and a server that must not: an answer runs on a thread and is buffered.

A slow reader never holds the model: the answer is made at the model's pace and waits in memory, bounded by its limit.
A reader that goes away ends the answer at its next token.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import Executor
from threading import Event as Flag

from holdfast.server.asks import Ask, Event, Host


async def answer(host: Host, ask: Ask, pool: Executor) -> AsyncIterator[Event]:
    """The events of `host.complete`, made on `pool`. Raises what the host raises."""
    loop, gone = asyncio.get_running_loop(), Flag()
    waiting: asyncio.Queue[Event | BaseException | None] = asyncio.Queue()

    def tell(item: Event | BaseException | None) -> None:
        loop.call_soon_threadsafe(waiting.put_nowait, item)

    def work() -> None:
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
        while (item := await waiting.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
        await running
    finally:
        gone.set()
