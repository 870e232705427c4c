"""Puts another text into message content, keeping every part that the text still shows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from holdfast.transcript.parts import fold

_TEXT_TYPES = ("text", "input_text", "output_text")
_OF_THE_TEXT = ("citations", "annotations")
"""Fields of a text part that point into its text."""


def refill(content: Any, text: str, keep: Callable[[dict[str, Any]], bool] = lambda _: True) -> Any:
    """Content (a string, a list of parts or null) that folds to `text`.

    Of a list, a part whose own text still stands in `text` as whole lines stays (an image behind its placeholder,
    say), what is between becomes text parts, and a part that shows nothing stays where `keep` says so.
    """
    if not isinstance(content, list):
        return text
    made: list[Any] = []
    cursor = since = 0
    slot: int | None = None
    mould: dict[str, Any] = {"type": _text_type(content)}
    for part in content:
        shown = fold([part]).text
        found = _find_lines(text, shown, cursor) if shown else -1
        if not shown:
            made += [part] if not isinstance(part, dict) or keep(part) else []
        elif found < 0:
            mould = _mould(part) or mould
            slot = len(made) if slot is None else slot
        else:
            if found > cursor:
                made.insert(_slot(made, since, slot), {**mould, "text": text[cursor : found - 1]})
            made.append(part)
            cursor, since, slot = found + len(shown) + 1, len(made), None
    if cursor < len(text):
        made.insert(_slot(made, since, slot), {**mould, "text": text[cursor:]})
    return made


def _find_lines(text: str, shown: str, start: int) -> int:
    """Where `shown` stands in `text` as whole lines, so that what is around it can be parts of their own; or -1."""
    at = text.find(shown, start)
    while at >= 0:
        end = at + len(shown)
        # A part without text folds to nothing, so an empty line beside it would be lost.
        before = at == start or (text[at - 1] == "\n" and at - 1 > start)
        after = end == len(text) or (text[end] == "\n" and end + 1 < len(text))
        if before and after:
            return at
        at = text.find(shown, at + 1)
    return -1


def _mould(part: Any) -> dict[str, Any] | None:
    """What a text part keeps when its text is replaced; None for a part of another type."""
    if not isinstance(part, dict) or part.get("type") not in _TEXT_TYPES:
        return None
    return {key: value for key, value in part.items() if key not in ("text", *_OF_THE_TEXT)}


def _text_type(content: Sequence[Any]) -> str:
    types = [part.get("type") for part in content if isinstance(part, dict)]
    return next((type_ for type_ in types if type_ in _TEXT_TYPES), "text")


def _slot(made: Sequence[Any], since: int, slot: int | None) -> int:
    """Where new text goes: where text was, else before the first call."""
    if slot is not None:
        return slot
    calls = (at for at in range(since, len(made)) if isinstance(made[at], dict) and made[at].get("type") == "tool_use")
    return next(calls, len(made))
