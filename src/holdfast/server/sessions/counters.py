"""Sums of work that a server has done since it started, in all and for each key."""

from __future__ import annotations

from collections import Counter
from threading import Lock

KEYS = 10_000
"""Keys whose sums are remembered; on loopback anyone can make up keys."""


class Counters:
    """Named sums. Any thread may add to them."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._sums: dict[str | None, Counter[str]] = {None: Counter()}  # None: of all keys
        self._seconds: dict[str | None, float] = {}

    def add(self, key: str, *, compaction_seconds: float = 0.0, **more: int) -> None:
        """Adds to the sums of these names, for a key and in all."""
        with self._lock:
            for of in (key, None):
                self._sums.setdefault(of, Counter()).update(more)
                self._seconds[of] = self._seconds.get(of, 0.0) + compaction_seconds
            if len(self._sums) > KEYS:
                oldest = next(of for of in self._sums if of is not None)
                del self._sums[oldest], self._seconds[oldest]

    def read(self, key: str | None = None) -> tuple[dict[str, int], float]:
        """Returns a copy of the whole-numbered sums, and the seconds of compactions; of all keys for None."""
        with self._lock:
            return dict(self._sums.get(key, {})), self._seconds.get(key, 0.0)
