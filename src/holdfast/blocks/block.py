"""A block: a span of the rendered session, what kind it is, and where in the session it came from."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """The purpose of a span of a session."""

    SYSTEM = "system"
    TASK = "task"
    USER = "user"
    REASONING = "reasoning"
    ACTION = "action"
    OBSERVATION = "observation"
    MEMENTO = "memento"
    """A note that a model wrote on a block of its work (`mementos/`)."""


@dataclass(frozen=True)
class Origin:
    """The position of a block in its session."""

    turn: int
    """Index into `Transcript.turns`."""
    kind: Kind
    chars: tuple[int, int]
    """Span in the rendered text of the session."""
    tokens: tuple[int, int]
    """Span in the token ids of the session."""


@dataclass(frozen=True)
class Block:
    """Token ids of one kind from one turn, with the template's scaffolding around it."""

    ids: tuple[int, ...]
    origin: Origin

    @property
    def kind(self) -> Kind:
        return self.origin.kind

    def __len__(self) -> int:
        return len(self.ids)
