"""A model that answers messages, wherever it runs: the one thing that text methods ask of an endpoint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Reply:
    """What came back, and what it took."""

    text: str
    tokens_in: int = 0
    tokens_out: int = 0
    seconds: float = 0.0
    stopped: str = "stop"
    """`stop`, or `length` where the answer was cut."""


class Chat(Protocol):
    """Raises Failed where no answer came within the time that it was given."""

    @property
    def name(self) -> str: ...

    def __call__(self, system: str, prompt: str, max_tokens: int, timeout: float) -> Reply: ...
