"""A limit on what is under way at once, for each key and in all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from holdfast.errors import Busy
from holdfast.web.request_error import RequestError


class ConcurrencyLimiter:
    """Places for things under way. One key never takes all of them, so that it cannot shut the others out."""

    def __init__(self, most: int, per_key: int, noun: str) -> None:
        """Takes the `noun` of what is counted, in the plural, for errors."""
        self.most, self.per_key, self.noun = most, min(per_key, most), noun
        self._by_key: Counter[str] = Counter()

    @property
    def taken(self) -> int:
        """Places that are taken."""
        return self._by_key.total()

    @property
    def full(self) -> bool:
        """True if no key gets a place."""
        return self.taken >= self.most

    @contextmanager
    def place(self, key: str) -> Iterator[None]:
        """Takes a place for as long as the block runs.

        Raises Busy if all are taken, RequestError with 429 if the key has as many as one key may have.
        """
        if self.full:
            raise Busy(f"{self.most} {self.noun} are under way, which is as many as this server takes; try again")
        if self._by_key[key] >= self.per_key:
            raise RequestError(
                f"this key has {self.per_key} {self.noun} under way, as many as one key may have; wait for one to end",
                status=429,
            )
        self._by_key[key] += 1
        try:
            yield
        finally:
            self._by_key[key] -= 1
            if not self._by_key[key]:
                del self._by_key[key]


def share_for_one_key(most: int) -> int:
    """Returns the places that one key may have if nobody said: three quarters of all, and at least one."""
    return max(1, most * 3 // 4)
