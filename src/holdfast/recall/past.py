"""A session as it is remembered: every turn that was ever said, and what the agent still reads of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from holdfast.transcript.turn import Turn


@dataclass(frozen=True)
class LostFact:
    """A fact that a compaction no longer holds."""

    kind: str
    text: str
    turn: int
    """Counted from 1."""


@dataclass(frozen=True)
class CompactionRecord:
    """One compaction of a session."""

    method: str
    tokens_before: int
    tokens: int
    lost: tuple[LostFact, ...] = ()
    time: str = ""
    """UTC, ISO 8601; empty if it is not known."""
    unit: str = "tokens"
    """The unit of `tokens`: `slots` where a model holds them inside."""


@dataclass(frozen=True)
class Past:
    """A session with its past."""

    name: str
    turns: tuple[Turn, ...]
    """The raw turns, in order; the first is turn 1."""
    window: tuple[Turn, ...] | None
    """The turns that the agent's model reads now; None where another process compacts them."""
    compactions: tuple[CompactionRecord, ...] = ()
    """The oldest first."""

    @property
    def lost(self) -> tuple[LostFact, ...]:
        """The facts that the newest compaction no longer holds."""
        return self.compactions[-1].lost if self.compactions else ()


def past_of_history(name: str, turns: Sequence[Turn]) -> Past:
    """Returns a session of which only the raw turns are known here."""
    return Past(name, tuple(turns), None)
