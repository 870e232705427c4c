"""The callback by which a call that may take long tells how far it is."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import TypeVar

Progress = Callable[[str, int, int, str], None]
"""Called as `progress(what, done, total, note)`: the kind of work, its steps done and in all, and the next one."""
Item = TypeVar("Item")


def quiet(what: str, done: int, total: int, note: str = "") -> None:
    """Drops the progress: for a caller who does not want any."""


def track(items: Collection[Item], what: str, progress: Progress) -> Iterator[Item]:
    """Yields the items; reports to `progress` before each one, with its name if it is a string, and behind the last."""
    for done, item in enumerate(items):
        progress(what, done, len(items), item if isinstance(item, str) else "")
        yield item
    progress(what, len(items), len(items), "")
