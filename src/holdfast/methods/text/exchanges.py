"""Helpers of the methods that drop whole exchanges."""

from __future__ import annotations

from collections.abc import Iterable

from holdfast.methods.text.base import Room
from holdfast.transcript.draft import Draft, turn_size, units

Span = tuple[int, int]
"""An exchange as [start, stop) of the pieces."""


def droppable_exchanges(held: Draft, room: Room) -> list[Span]:
    """Returns the exchanges that may be dropped as a whole, the oldest first."""
    free = set(room.free(held))
    return [span for span in units(held) if free.issuperset(range(*span))]


def drop_exchanges(held: Draft, spans: Iterable[Span]) -> Draft:
    """Returns the draft without these exchanges."""
    dropped = {at for span in spans for at in range(*span)}
    return held.keep(set(range(len(held.pieces))) - dropped) if dropped else held


def choose_until_fit(held: Draft, room: Room, order: Iterable[Span]) -> list[Span]:
    """Returns the first exchanges of `order` that must go so that the draft fits, or all if it never does."""
    size, gone = held.size(room.count), []
    for span in order:
        if size <= room.budget:
            break
        gone.append(span)
        size -= sum(turn_size(piece.turn, room.count) for piece in held.pieces[slice(*span)])
    return gone
