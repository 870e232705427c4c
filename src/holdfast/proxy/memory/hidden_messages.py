"""Items of a wire that stand behind answers as clients saw them, put back into later requests."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from threading import Lock
from typing import Any

_MOST = 4_000  # answers remembered; the one used longest ago goes first


class HiddenMessages:
    """The messages behind visible answers, by the caller's key; any thread may call."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._held: OrderedDict[tuple[str, object, str], list[Any]] = OrderedDict()

    def note(self, key: str, before: Any, hidden: Iterable[tuple[object, list[Any]]]) -> None:
        """Records items by the place where they belong; `before` is the newest item of the request."""
        with self._lock:
            for place, items in hidden:
                if place is not None and items:
                    self._held[key, place, _text(before)] = items
            while len(self._held) > _MOST:
                self._held.popitem(last=False)

    def reveal(
        self, key: str, items: Sequence[Any], place_of: Callable[[Any], object], instead: bool
    ) -> tuple[list[Any], bool]:
        """Returns the items of a request with what stands behind them, and whether there was any.

        `instead`: it takes the place of the visible item; else it stands before it.
        """
        if not self._held:
            return list(items), False
        whole: list[Any] = []
        heard = ""  # what the client said last, which an answer is told by as well
        for item in items:
            place = place_of(item)
            with self._lock:
                behind = self._held.get((key, place, heard)) if place is not None else None
            whole += behind or ()
            if behind is None or not instead:
                whole.append(item)
            if place is None:
                heard = _text(item)
        return whole, len(whole) != len(items)


def _text(item: Any) -> str:
    """Returns what an item of a client says, whatever marks of a cache stand on it."""
    if not isinstance(item, dict):
        return ""
    told = item.get("content", item.get("output", ""))
    return _plain(told) if not isinstance(told, str) else told


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return "".join(map(_plain, value))
    if isinstance(value, dict):
        return (
            str(value["text"]) if "text" in value else _plain(value.get("content", "")) or json.dumps(value.get("id"))
        )
    return value if isinstance(value, str) else ""
