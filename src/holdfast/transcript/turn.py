"""The session as values: its turns, their speakers and texts, in order. Knows no wire format, no model and no
tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Role(StrEnum):
    """The speaker of a turn. A tool result is a turn of its own."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


@dataclass(frozen=True)
class ToolCall:
    """One call of a tool by the assistant."""

    id: str
    name: str
    arguments: str
    """The arguments as the JSON text that stood on the wire; kept as text so that nothing is re-serialised."""


@dataclass(frozen=True)
class Opaque:
    """A part of a turn that the model sees and nobody else can read: an image, sound, encrypted text."""

    name: str
    """The kind of it, e.g. `image`, or the type of a block that is not known."""
    tokens: int
    """By the provider's published rule, or by its size."""
    shown: str = ""
    """The text that stands for it in the turn, which takes the part along when it goes; empty if nothing does."""


@dataclass(frozen=True)
class Turn:
    """One utterance. `extra` keeps every wire field that no reader understands."""

    role: Role
    text: str = ""
    reasoning: str = ""
    calls: tuple[ToolCall, ...] = ()
    call_id: str = ""
    """On a tool turn: the id of the call that it answers."""
    is_error: bool = False
    source: int = 0
    """Place in the file: the 1-based line, or the 1-based index of its message."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    opaque: tuple[Opaque, ...] = ()

    @property
    def hidden(self) -> tuple[Opaque, ...]:
        """The opaque parts that are still there: a part goes with the text that stands for it."""
        return tuple(part for part in self.opaque if part.shown in self.text or part.shown in self.reasoning)


@dataclass(frozen=True)
class Transcript:
    """A whole session, in the order in which the model saw it."""

    turns: tuple[Turn, ...]
    format: str = ""
    """Name of the wire format that it was read from, e.g. `openai_chat`."""
    meta: Mapping[str, Any] = field(default_factory=dict)
    """Content beside the turns: tool definitions, session id, unknown top-level fields."""
    skipped: tuple[str, ...] = ()
    """Lines that were left out in lenient mode, each as `line N: reason`."""
