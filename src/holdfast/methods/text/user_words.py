"""Keeps the user's own words and drops the agent's: in little room, what was asked outlives what was answered."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from holdfast.facts.prohibitions import forbids
from holdfast.methods.text.base import Room
from holdfast.transcript.draft import Draft, turn_size, units
from holdfast.transcript.turn import Role

_INSISTS = re.compile(
    r"(?i:\b(?:always|must)\b)|^[A-Z][A-Z _-]+:",  # a heading such as `HARD CONSTRAINT:`
    re.MULTILINE,
)
_TELLING = re.compile(
    r"(?i:\b(?:only|no|not|prefers?|wants?|without|unless|until|instead|now)\b)|[\d$`\"]|\b[A-Z]{2,}\b|\w[/_.]\w"
)


@dataclass(frozen=True)
class UserWords:
    """Drops exchanges of the agent from the oldest on, then what the user said twice, then what binds least."""

    name: ClassVar[str] = "user_words"

    def rewrite(self, held: Draft, room: Room) -> Draft:
        dropped, size = set[int](), held.size(room.count)
        for start, stop in _drop_order(held, set(room.free(held))):
            if size <= room.budget:
                break
            dropped |= set(range(start, stop))
            size -= sum(turn_size(piece.turn, room.count) for piece in held.pieces[start:stop])
        return held.keep(set(range(len(held.pieces))) - dropped) if dropped else held


def _drop_order(held: Draft, free: set[int]) -> Iterator[tuple[int, int]]:
    """Yields the exchanges that may go, the first to go first."""
    spans = [span for span in units(held) if free.issuperset(range(*span))]
    said = [(start, stop) for start, stop in spans if held.pieces[start].turn.role is Role.USER]
    yield from (span for span in spans if span not in said)
    newest = {held.pieces[start].turn.text: start for start, _ in said}
    yield from (span for span in said if newest[held.pieces[span[0]].turn.text] != span[0])
    once = [span for span in said if newest[held.pieces[span[0]].turn.text] == span[0]]
    yield from sorted(once, key=lambda span: _binds(held.pieces[span[0]].turn.text))


def _binds(text: str) -> int:
    """Returns 2 for a rule, 1 for a wish or an exact word such as a number, a name or a path, 0 for talk."""
    return 2 if forbids(text) or _INSISTS.search(text) else int(bool(_TELLING.search(text)))
