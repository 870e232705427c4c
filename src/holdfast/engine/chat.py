"""A model that answers messages, wherever it runs: the one thing that text methods ask of an endpoint."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from holdfast._moved import find_name


@dataclass(frozen=True)
class ChatAnswer:
    """An answer of a chat model, and its cost."""

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

    def __call__(self, system: str, prompt: str, max_tokens: int, timeout: float) -> ChatAnswer: ...


def input_limit(chat: Chat) -> int | None:
    """Returns the tokens of a prompt that the model reads at most; None if the chat does not say."""
    limit: int | None = getattr(chat, "max_input", None)
    return limit


@dataclass(frozen=True)
class MeteredChat:
    """A chat that remembers every reply, so that the compactor's own cost can be told."""

    chat: Chat
    replies: list[ChatAnswer] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.chat.name

    @property
    def max_input(self) -> int | None:
        return input_limit(self.chat)

    def __call__(self, system: str, prompt: str, max_tokens: int, timeout: float) -> ChatAnswer:
        reply = self.chat(system, prompt, max_tokens, timeout)
        self.replies.append(reply)
        return reply


if not TYPE_CHECKING:  # so that a misspelt name is still an error to mypy

    def __getattr__(name: str) -> object:
        return find_name("engine.chat", name)
