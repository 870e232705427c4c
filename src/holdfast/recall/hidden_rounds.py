"""Rounds of memory calls that were answered inside, and their place in a history that knows nothing of them.

A client sees one answer where the model made several: it called a memory tool, read the result, went on. When the
client sends that answer back, the rounds are put in its place again, so that the model finds what it looked up, and a
prompt cache, or a session, goes on where it was.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from threading import Lock

from holdfast.transcript.turn import Turn

_MOST = 4_000  # answers remembered; the one used longest ago goes first


class HiddenRounds:
    """The rounds behind visible answers, by the caller's key; any thread may call."""

    def __init__(self) -> None:
        self._held: OrderedDict[tuple[object, ...], tuple[Turn, ...]] = OrderedDict()
        self._lock = Lock()

    def note(self, key: str, before: Turn | None, visible: Turn, behind: Sequence[Turn]) -> None:
        """Records the turns that stand behind a visible answer to the turn `before`."""
        with self._lock:
            self._held[_place(key, before, visible)] = tuple(behind)
            while len(self._held) > _MOST:
                self._held.popitem(last=False)

    def reveal(self, key: str, turns: Sequence[Turn]) -> tuple[Turn, ...]:
        """Returns a history with the rounds in place of the answers that the client saw."""
        if not self._held:
            return tuple(turns)
        whole: list[Turn] = []
        for at, turn in enumerate(turns):
            place = _place(key, turns[at - 1] if at else None, turn)
            with self._lock:
                behind = self._held.get(place)
                if behind is not None:
                    self._held.move_to_end(place)
            whole += (turn,) if behind is None else behind
        return tuple(whole)


def _place(key: str, before: Turn | None, visible: Turn) -> tuple[object, ...]:
    return key, None if before is None else _identity(before), _identity(visible)


def _identity(turn: Turn) -> tuple[object, ...]:
    """Returns what a client sends back of a turn as it got it."""
    return turn.role, turn.text.strip(), tuple(call.id for call in turn.calls), turn.call_id
