"""Drop the oldest exchanges until the rest fits: what agents do that do nothing else (baseline)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from holdfast.methods.text.base import Room
from holdfast.transcript.draft import Draft, turn_size, units


@dataclass(frozen=True)
class Truncate:
    """The oldest exchanges go first; system prompt, task and newest exchanges stay."""

    name: ClassVar[str] = "truncate"

    def rewrite(self, held: Draft, room: Room) -> Draft:
        free, dropped = set(room.free(held)), set[int]()
        size = held.size(room.count)
        for start, stop in units(held):
            if size <= room.budget:
                break
            if free.issuperset(range(start, stop)):
                dropped |= set(range(start, stop))
                size -= sum(turn_size(piece.turn, room.count) for piece in held.pieces[start:stop])
        return held.keep(set(range(len(held.pieces))) - dropped) if dropped else held
