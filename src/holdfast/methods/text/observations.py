"""Helpers of the methods that rewrite observations: which pieces are observations, and the loop over them.

An observation is what a tool or the harness returned. It keeps its turn and its call; only its text is replaced.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from holdfast.methods.text.base import Room
from holdfast.transcript.draft import Draft, Piece
from holdfast.transcript.tools import answers_text_call
from holdfast.transcript.turn import Role, Turn

MARK = "[holdfast: "
"""How every text begins that stands in place of an observation."""


def expand_hint(at: int) -> str:
    """Returns the command that prints the raw turn `at` (0-based) in full; turns are shown from 1."""
    return f"holdfast expand {at + 1}"


def is_observation(turn: Turn) -> bool:
    return turn.role is Role.TOOL or answers_text_call(turn)


def free_observations(held: Draft, room: Room) -> tuple[int, ...]:
    """Returns the pieces that are observations of the raw session and may be touched, the oldest first."""
    pieces = held.pieces
    return tuple(at for at in room.free(held) if pieces[at].at is not None and is_observation(pieces[at].turn))


def shorten_observations(held: Draft, room: Room, made: str, shorter: Callable[[Piece], str | None]) -> Draft:
    """Returns the draft with `shorter(piece)` as the text of its observations, the oldest first, until it fits.

    An observation stays as it is if that is None or not fewer tokens.
    """
    pieces, size = list(held.pieces), held.size(room.count)
    changed = False
    for at in free_observations(held, room):
        if size <= room.budget:
            break
        piece = pieces[at]
        text = shorter(piece)
        saved = 0 if text is None else room.count(piece.turn.text) - room.count(text)
        if text is not None and saved > 0:
            pieces[at] = replace(piece, turn=replace(piece.turn, text=text), writer=made, lines=())
            size -= saved
            changed = True
    return replace(held, pieces=tuple(pieces)) if changed else held
