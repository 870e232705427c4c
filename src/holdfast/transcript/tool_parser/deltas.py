"""The pieces of an answer."""

from __future__ import annotations

from dataclasses import dataclass

from holdfast.transcript.turn import ToolCall


@dataclass(frozen=True)
class Logprob:
    """One token of an answer as the model saw it."""

    token: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class TextDelta:
    """Text of the answer. Joined, they are the text of the turn."""

    text: str
    logprobs: tuple[Logprob, ...] = ()


@dataclass(frozen=True)
class ReasoningDelta:
    """Reasoning, if the model marks it."""

    text: str


@dataclass(frozen=True)
class ToolCallDelta:
    """A whole tool call; its text is not sent as text."""

    call: ToolCall


Delta = TextDelta | ReasoningDelta | ToolCallDelta
