"""The action that an agent takes some turns after a window: how long the effect of a compaction lasts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from holdfast.blocks.block import Block
from holdfast.transcript.turn import Role, Transcript

NEXT_TOKENS = 256  # of the real session after the window, over which fidelity is measured
LATER_TURNS = 3
"""So many turns at least stand between the window and its later action."""
LATER_TOKENS = 1024
"""Tokens of these turns, at most: reading them verbatim is paid for by every method at every ratio."""


@dataclass(frozen=True)
class LaterAction:
    """The assistant's first action behind `LATER_TURNS` more turns of the session."""

    before: tuple[int, ...]
    """Ids of what stands between the window and the action."""
    ids: tuple[int, ...]
    """Its own ids, at most `NEXT_TOKENS`."""
    calls: bool
    """True if it calls a tool."""


def find_later_action(transcript: Transcript, after: Sequence[Block], turn: int) -> LaterAction | None:
    """Returns the later action of a window that ends before `turn`, or None if the session ends or talks too much.

    `after` are the blocks behind the window.
    """
    turns = transcript.turns
    at = next((n for n in range(turn + LATER_TURNS, len(turns)) if turns[n].role is Role.ASSISTANT), None)
    before = tuple(i for b in after if at is not None and b.origin.turn < at for i in b.ids)
    ids = tuple(i for b in after if b.origin.turn == at for i in b.ids)[:NEXT_TOKENS]
    if at is None or len(ids) < 2 or len(before) > LATER_TOKENS:
        return None
    return LaterAction(before, ids, bool(turns[at].calls))
