"""Finds a fact's text in another text: exactly, and not as a part of another literal.

`80` does not stand in `8080`, `1.2` not in `1.2.3`, `src/app.js` not in `src/app.js.bak`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from holdfast.facts.fact import FactKind
from holdfast.transcript.turn import Turn

_WORD = re.compile(r"\w+")
_EDGES: dict[FactKind, tuple[str, str]] = {
    **dict.fromkeys(
        (FactKind.NUMBER, FactKind.VERSION, FactKind.HASH), (r"(?<![\w.])(?<!\d[,:-])", r"(?![\w]|[.,:-]\d)")
    ),
    **dict.fromkeys((FactKind.PATH, FactKind.URL), (r"(?<![\w/\\.@~$-])", r"(?![\w/\\]|[.@-]\w)")),
}
_EDGE = (r"(?<!\w)", r"(?!\w)")


@lru_cache(maxsize=1 << 14)
def _pattern(text: str, kind: FactKind) -> re.Pattern[str]:
    before, after = _EDGES.get(kind, _EDGE)
    if kind not in _EDGES:  # a word may not go on; behind a bracket anything may stand
        before, after = before if _WORD.match(text[0]) else "", after if _WORD.match(text[-1]) else ""
    return re.compile(before + re.escape(text) + after)


def find_occurrences(text: str, kind: FactKind, inside: str) -> list[int]:
    """Returns the offsets in `inside` at which `text` stands as itself."""
    found, at = [], inside.find(text)
    while at >= 0:
        if _pattern(text, kind).match(inside, at):
            found.append(at)
        at = inside.find(text, at + 1)
    return found


def occurs_in(text: str, kind: FactKind, inside: str) -> bool:
    """Returns True if `text` stands in `inside` as itself."""
    at = inside.find(text)
    while at >= 0:
        if _pattern(text, kind).match(inside, at):
            return True
        at = inside.find(text, at + 1)
    return False


class SearchableText:
    """A text that is searched many times: its set of words excludes most searches at once."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._words = set(_WORD.findall(text))

    def contains(self, text: str, kind: FactKind) -> bool:
        return self._words.issuperset(_WORD.findall(text)) and occurs_in(text, kind, self.text)


def visible_text(turn: Turn) -> str:
    """Returns the text of a turn and the arguments of its calls, as they stand and without the escapes of JSON."""
    return "\n".join(part for part in _visible_parts(turn) if part)


def _visible_parts(turn: Turn) -> Iterator[str]:
    yield turn.text
    for call in turn.calls:
        yield call.arguments
        if "\\" in call.arguments:
            try:
                yield from _strings(json.loads(call.arguments))
            except (ValueError, RecursionError):  # broken JSON is read as it stands
                continue


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)
