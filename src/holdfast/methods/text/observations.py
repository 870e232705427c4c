"""What the methods that rewrite observations share: which pieces are observations, and the loop over them.

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
    """How to get the raw turn `at` (from 0) back; turns are shown from 1."""
    return f"holdfast expand {at + 1}"


def is_observation(turn: Turn) -> bool:
    return turn.role is Role.TOOL or answers_text_call(turn)


def observations(held: Draft, room: Room) -> tuple[int, ...]:
    """Pieces with observations of the raw session that may be touched, the oldest first."""
    pieces = held.pieces
    return tuple(at for at in room.free(held) if pieces[at].at is not None and is_observation(pieces[at].turn))


def shortened(held: Draft, room: Room, made: str, shorter: Callable[[Piece], str | None]) -> Draft:
    """The draft with `shorter(piece)` as the text of its observations, the oldest first, until it fits.

    Where that is None or not fewer tokens, the observation stays as it is.
    """
    pieces, size = list(held.pieces), held.size(room.count)
    changed = False
    for at in observations(held, room):
        if size <= room.budget:
            break
        piece = pieces[at]
        text = shorter(piece)
        saved = 0 if text is None else room.count(piece.turn.text) - room.count(text)
        if text is not None and saved > 0:
            pieces[at] = replace(piece, turn=replace(piece.turn, text=text), made=made, lines=())
            size -= saved
            changed = True
    return replace(held, pieces=tuple(pieces)) if changed else held
