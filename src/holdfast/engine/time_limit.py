"""Work that must end within a time, whatever a server does."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from threading import Thread
from typing import TypeVar

T = TypeVar("T")


def run_within(seconds: float, work: Callable[[], T]) -> T:
    """Returns or raises what `work` does. Raises TimeoutError after `seconds`; the work is then abandoned, not waited
    for.

    Time-outs of HTTP clients bound each read and each attempt; a server that sends a byte now and then outlives them.
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    Thread(target=run, daemon=True).start()  # a daemon, so that an abandoned call does not keep the program alive
    return future.result(seconds)
