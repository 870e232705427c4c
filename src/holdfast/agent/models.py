"""The models that an agent asks: one contract, and the models that need no network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Protocol

from holdfast.cost.cache import Block, Cache, Rules, build_prompt
from holdfast.cost.prices import Prices
from holdfast.cost.usage import Usage
from holdfast.errors import Failed, PromptTooLong
from holdfast.transcript.draft import turn_size
from holdfast.transcript.token_estimate import estimate_tokens
from holdfast.transcript.turn import Role, Turn


@dataclass(frozen=True)
class ModelAnswer:
    """An answer, and what it took."""

    turn: Turn
    usage: Usage = field(default_factory=Usage)
    seconds: float = 0.0
    cut: bool = False
    """True if the answer reached its limit of tokens before its end."""


class AgentModel(Protocol):
    """A model that continues a conversation."""

    @property
    def name(self) -> str: ...

    @property
    def window(self) -> int | None:
        """Tokens that it reads; None where nobody knows."""
        ...

    @property
    def prices(self) -> Prices | None:
        """None where nobody knows them."""
        ...

    def begin(self, steps: int, tools: Sequence[Mapping[str, Any]], folder: Path | None = None) -> None:
        """Prepares for a run that has `steps` answers already: 0, or more if it is resumed.

        `folder` is where a model may keep what it remembers of the run.
        """
        ...

    def answer(
        self, turns: Sequence[Turn], tools: Sequence[Mapping[str, Any]], max_tokens: int, seconds: float
    ) -> ModelAnswer:
        """Answers a conversation. `tools` are OpenAI functions, none where calls travel as text.

        Raises PromptTooLong for a conversation that it cannot read, Failed where no answer came.
        """
        ...


Script = Sequence[str | Turn | ModelAnswer | Callable[[Sequence[Turn]], str | Turn | ModelAnswer]]


@dataclass
class ScriptedModel:
    """A model that says what it was told to, for tests and for measurements without a model.

    Tokens are estimated, and what a prompt cache would have read of them is simulated by the rules of a provider.
    """

    script: Script
    name: str = "scripted"
    window: int | None = None
    prices: Prices | None = None
    rules: Rules = field(default_factory=lambda: Rules("off"))
    """The simulated prompt cache."""
    step_seconds: float = 15.0
    """Simulated seconds between two calls, for the cache's life."""
    prompts: list[tuple[Turn, ...]] = field(default_factory=list)
    """The conversations that it was asked, in order."""

    def __post_init__(self) -> None:
        self._cache, self._clock, self._at = Cache(self.rules), count(), 0

    def begin(self, steps: int, tools: Sequence[Mapping[str, Any]], folder: Path | None = None) -> None:
        """Goes on behind the answers that a resumed run has."""
        self._at = steps

    def answer(
        self, turns: Sequence[Turn], tools: Sequence[Mapping[str, Any]], max_tokens: int, seconds: float
    ) -> ModelAnswer:
        """Gives the next answer. Raises Failed at the end of the script."""
        self.prompts.append(tuple(turns))
        sizes = [turn_size(turn, estimate_tokens) for turn in turns]
        if self.window is not None and sum(sizes) > self.window:
            raise PromptTooLong(
                f"{self.name} reads {self.window} tokens, the conversation has {sum(sizes)}",
                tokens=sum(sizes),
                most=self.window,
            )
        if self._at >= len(self.script):
            raise Failed(f"{self.name}: the script has {len(self.script)} answers, and one more was asked for")
        said = self.script[self._at]
        self._at += 1
        made = said(turns) if callable(said) else said
        if isinstance(made, ModelAnswer):
            return made
        turn = Turn(Role.ASSISTANT, made) if isinstance(made, str) else made
        return ModelAnswer(turn, self._usage(turns, sizes, turn))

    def _usage(self, turns: Sequence[Turn], sizes: Sequence[int], answer: Turn) -> Usage:
        keys = (repr((t.role, t.text, t.calls, t.call_id)).encode() for t in turns)
        head = sum(turn.role is Role.SYSTEM for turn in turns)
        prompt = build_prompt((Block(key, size) for key, size in zip(keys, sizes, strict=True)), head)
        self._cache, usage = self._cache.call(prompt, next(self._clock) * self.step_seconds)
        return usage + Usage(output=turn_size(answer, estimate_tokens))
