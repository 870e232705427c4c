"""Reads turns, or lines of turns, exactly as they stand."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from holdfast.errors import BadOption
from holdfast.recall.pages import Page
from holdfast.transcript.token_estimate import estimate_tokens

_RANGE = re.compile(r"(?P<turn>\d{1,9})(?::(?P<first>\d{1,9})(?:-(?P<last>\d{1,9}))?|-(?P<end>\d{1,9}))?")
_ASIDE = 12
"""Tokens of the line that says where to go on."""


@dataclass(frozen=True)
class _Stretch:
    """Lines of one page, counted from 0; `last` may be beyond its end."""

    page: Page
    first: int
    last: int


def read_turns(pages: Sequence[Page], asked: str, room: int) -> str:
    """Returns what is asked for: `12`, `12-14`, `12:40` or `12:40-80`, several with commas, in at most `room` tokens.

    Where that is too little, the last line says where to go on. Raises BadOption for turns that there are not.
    """
    stretches = [stretch for part in asked.split(",") for stretch in _parse(pages, part.strip())]
    texts: list[str] = []
    left = room
    for stretch in stretches:
        text, behind = _print(stretch, left)
        left -= estimate_tokens(text) + 1 if text else 0
        texts += [text] if text else []
        if behind is not None:
            texts.append(f"(goes on at {stretch.page.number}:{behind + 1})")
            break
    return "\n".join(texts)


def _parse(pages: Sequence[Page], part: str) -> list[_Stretch]:
    match = _RANGE.fullmatch(part)
    if match is None:
        raise BadOption(f"turns are asked for as 12, 12-14, 12:40 or 12:40-80, got {part[:40]!r}")
    turn = int(match["turn"])
    end = int(match["end"] or turn)
    if not 1 <= turn <= end <= len(pages):
        raise BadOption(f"the session has the turns 1 to {len(pages)}, got {part}")
    if match["first"] is None:
        return [_Stretch(page, 0, page.lines - 1) for page in pages[turn - 1 : end]]
    page, first = pages[turn - 1], int(match["first"])
    last = int(match["last"] or page.lines)
    if not 1 <= first <= min(last, page.lines):
        raise BadOption(f"turn {turn} has the lines 1 to {page.lines}, got {part}")
    return [_Stretch(page, first - 1, min(last, page.lines) - 1)]


def _print(stretch: _Stretch, room: int) -> tuple[str, int | None]:
    """Returns the text, as much as fits, and the line that the rest begins at; None if nothing is left out."""
    page = stretch.page
    lines = f"lines {stretch.first + 1}-{stretch.last + 1} of {page.lines}" if page.lines else "empty"
    head = f"[{page.number}] {page.head}, {lines}"
    left = room - estimate_tokens(head) - _ASIDE
    last = stretch.first - 1
    while last < stretch.last:
        more = estimate_tokens(page.slice(last + 1, last + 1)) + 1
        if more > left:
            break
        left, last = left - more, last + 1
    if last < stretch.first <= stretch.last:
        return "", stretch.first
    text = f"{head}\n{page.slice(stretch.first, last)}" if last >= stretch.first else head
    return text, last + 1 if last < stretch.last else None
