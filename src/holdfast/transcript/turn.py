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
