"""What the methods that drop whole exchanges share."""

from __future__ import annotations

from collections.abc import Iterable

from holdfast.methods.text.base import Room
from holdfast.transcript.draft import Draft, turn_size, units

Span = tuple[int, int]
"""An exchange as [start, stop) of the pieces."""


def droppable(held: Draft, room: Room) -> list[Span]:
    """Exchanges that may be dropped as a whole, the oldest first."""
    free = set(room.free(held))
    return [span for span in units(held) if free.issuperset(range(*span))]


def without(held: Draft, spans: Iterable[Span]) -> Draft:
    """The draft without these exchanges; itself where there are none."""
    dropped = {at for span in spans for at in range(*span)}
    return held.keep(set(range(len(held.pieces))) - dropped) if dropped else held


def until_it_fits(held: Draft, room: Room, order: Iterable[Span]) -> list[Span]:
    """The first exchanges of `order` that must go so that the draft fits; all where it never does."""
    size, gone = held.size(room.count), []
    for span in order:
        if size <= room.budget:
            break
        gone.append(span)
        size -= sum(turn_size(piece.turn, room.count) for piece in held.pieces[slice(*span)])
    return gone
