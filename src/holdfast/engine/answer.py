"""An answer under way: generated on a fork, token by token, with all that is needed to make it part of the memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast.engine.kv_context import KVContext
from holdfast.engine.local import LocalEngine
from holdfast.engine.sampling import Sampling
from holdfast.model.forward import logits


@dataclass(frozen=True)
class Token:
    """One token of an answer."""

    id: int
    logits: Tensor
    """`[V]` float32: what it was chosen from."""


class Answer:
    """Iterating it generates; what was generated stays, so that it may be left and taken up again."""

    def __init__(
        self, engine: LocalEngine, live: KVContext, opening: Sequence[int], limit: int, sampling: Sampling | None = None
    ) -> None:
        """Takes `opening`, which a template writes before an answer; `live` is not changed."""
        self.engine, self.live, self.limit = engine, live.fork(), limit
        self.opening, self.sampling = tuple(opening), sampling or Sampling()
        self.ids: list[int] = []
        self.hidden: list[Tensor] = []
        """`[n, d]` of everything read since `opening` began; the newest token may not be among it yet."""
        self.ended = False
        """Whether the model closed the answer by itself."""
        self._generator = self.sampling.generator()

    def __iter__(self) -> Iterator[Token]:
        while not self.ended and len(self.ids) < self.limit:
            token = self._next()
            if token is not None:
                yield token

    @torch.no_grad()
    def _next(self) -> Token | None:
        live = self.live.fork()
        hidden = live.feed([self.ids[-1]] if self.ids else list(self.opening))
        scores = logits(self.engine.model, hidden[-1])
        chosen = self.sampling.choose(scores, self._generator)
        self.live, self.hidden = live, [*self.hidden, hidden]
        if chosen in self.engine.stop_ids:
            self.ended = True
            return None
        self.ids.append(chosen)
        return Token(chosen, scores)

    def text(self) -> str:
        """Returns the whole answer; generates what is not yet there."""
        for _ in self:
            continue
        return str(self.engine.model.tokenizer.decode(self.ids))

    @torch.no_grad()
    def close(self, closing: Sequence[int]) -> tuple[tuple[int, ...], KVContext, list[Tensor]]:
        """Returns all ids with what the template writes around them, the memory that holds them, and their hidden
        states.
        """
        live, ids = self.live.fork(), (*self.opening, *self.ids, *closing)
        rest = ids[sum(map(len, self.hidden)) :]
        return ids, live, [*self.hidden, live.feed(list(rest))]
