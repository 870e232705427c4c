"""The newest histories of one caller, by which a request shows what of it will stand elsewhere in the next one.

Most agents only append. Some move a part on from request to request: Aider sends its files and a reminder behind
whatever was said, others a note in the newest message alone. What moves is no part of the session that is compacted,
else every request would be another session.
"""

from __future__ import annotations

from collections.abc import Sequence

from holdfast.transcript.turn import Turn

_MOST = 32
_TAIL = 8
"""Turns that a moving part has at most; where more of a history is not taken up, another session forked from it."""


class RecentHistories:
    """Histories as the hashes of their turns, the newest last; for one thread at a time."""

    def __init__(self) -> None:
        self._held: list[tuple[int, ...]] = []

    def moving_turns(self, history: Sequence[Turn]) -> int:
        """Records a history; returns how many turns at its end may move, because those of the one before it did."""
        turns = tuple(hash((turn.role, turn.text, turn.reasoning, turn.calls, turn.call_id)) for turn in history)
        shared = [count_shared(turns, old) for old in self._held]
        at = max(range(len(shared)), key=lambda at: (shared[at], at), default=None)
        if at is None or not shared[at]:
            self._held = [*self._held, turns][-_MOST:]
            return 0
        old, same = self._held[at], shared[at]
        if same == len(turns) < len(old):
            return 0  # the same request again, or a step back
        kept = self._held if len(old) - same > _TAIL else [*self._held[:at], *self._held[at + 1 :]]
        self._held = [*kept, turns][-_MOST:]
        return 0 if same == len(old) else len(turns) - same


def count_shared(one: Sequence[int], other: Sequence[int]) -> int:
    """Returns how many leading items two sequences have in common."""
    pairs = zip(one, other, strict=False)
    return next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))
