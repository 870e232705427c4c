"""The order in which threads use one model: a step (one forward pass) at a time, first come, first served."""

from __future__ import annotations

from collections import deque
from threading import Lock
from types import TracebackType


class StepScheduler:
    """A fair lock around each step of a model.

    A thread that wants another step lines up at the end again. With two threads, neither waits longer than the step
    that runs now and the other's next one, whatever the two are doing. Not re-entrant.
    """

    def __init__(self) -> None:
        self._guard = Lock()
        self._waiting: deque[Lock] = deque()
        self._busy = False

    def __enter__(self) -> None:
        if (turn := self._line_up()) is not None:
            turn.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._guard:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._busy = False

    def _line_up(self) -> Lock | None:
        """Takes the model if it is free; else returns a lock that opens when it is this thread's turn."""
        with self._guard:
            if not self._busy:
                self._busy = True
                return None
            turn = Lock()
            turn.acquire()
            self._waiting.append(turn)
            return turn
