"""One at a time, in the order of arrival: answers share the model step by step, and none waits for another to end."""

from __future__ import annotations

from collections import deque
from threading import Lock
from types import TracebackType


class StepScheduler:
    """A lock that is fair: whoever came first goes first, and who leaves lines up again at the end."""

    def __init__(self) -> None:
        self._guard = Lock()
        self._waiting: deque[Lock] = deque()
        self._taken = False

    def __enter__(self) -> None:
        with self._guard:
            if not self._taken:
                self._taken = True
                return
            turn = Lock()
            turn.acquire()
            self._waiting.append(turn)
        turn.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._guard:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._taken = False

    def give_way(self) -> None:
        """For who is inside: let those who wait go first."""
        with self._guard:
            if not self._waiting:
                return
        self.__exit__(None, None, None)
        self.__enter__()
