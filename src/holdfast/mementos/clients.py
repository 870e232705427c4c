"""Several endpoints of one model as one: each call goes to the one that has least to do."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Condition

from holdfast.engine.chat import Chat, ChatAnswer, input_limit
from holdfast.errors import BadOption


class ChatPool:
    """`Chat` over endpoints. Threads share it; one waits while every endpoint has `at_once` calls."""

    def __init__(self, chats: Sequence[Chat], at_once: int = 4) -> None:
        """Raises BadOption for no endpoint, or for calls that could never be made."""
        if not chats or at_once < 1:
            raise BadOption(f"a pool needs an endpoint and at least 1 call at once, got {len(chats)} and {at_once}")
        self.chats, self.at_once = tuple(chats), at_once
        self._running = [0] * len(chats)
        self._free = Condition()

    @property
    def name(self) -> str:
        return self.chats[0].name

    @property
    def max_input(self) -> int | None:
        return min((limit for chat in self.chats if (limit := input_limit(chat))), default=None)

    def __call__(self, system: str, prompt: str, max_tokens: int, timeout: float) -> ChatAnswer:
        """Asks the least busy endpoint."""
        with self._free:
            self._free.wait_for(lambda: min(self._running) < self.at_once)
            at = self._running.index(min(self._running))
            self._running[at] += 1
        try:
            return self.chats[at](system, prompt, max_tokens, timeout)
        finally:
            with self._free:
                self._running[at] -= 1
                self._free.notify()
