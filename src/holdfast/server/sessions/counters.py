"""Sums of what a server has done since it was started."""

from __future__ import annotations

from collections import Counter
from threading import Lock


class Counters:
    """Named sums. Any thread may add to them."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._sums: Counter[str] = Counter()
        self.compaction_seconds = 0.0

    def add(self, *, compaction_seconds: float = 0.0, **more: int) -> None:
        """Adds to the sums of these names."""
        with self._lock:
            self._sums.update(more)
            self.compaction_seconds += compaction_seconds

    def read(self) -> dict[str, int]:
        """Returns a copy of the whole-numbered sums."""
        with self._lock:
            return dict(self._sums)
