"""The base of all evicting methods: read the span once, score its KV pairs, keep the best under any budget.

A method is its `score`; how the budget is spread over heads is a separate choice (`context/allocation.py`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from holdfast.config import home
from holdfast.context.allocation import Allocation, load_shares
from holdfast.context.budget import Budget
from holdfast.context.segments import Segment
from holdfast.context.surgery import keep_pairs
from holdfast.engine.kv_context import KVContext
from holdfast.engine.local import LocalEngine
from holdfast.errors import BadOption
from holdfast.methods.base import Span, prefill_progress
from holdfast.methods.reference_queries import SpanPrefill
from holdfast.model.attention import Observer
from holdfast.progress import Progress, quiet


class Study(NamedTuple):
    """States of the span and the score of each of its KV pairs, per full-attention layer `[G, T]`."""

    prefill: SpanPrefill
    scores: dict[int, Tensor]
    allocation: Allocation

    @property
    def span(self) -> Span:
        return self.prefill.span

    def with_scores(self, scores: dict[int, Tensor]) -> Study:
        """Returns the study with other scores."""
        return self._replace(scores=scores)


@dataclass(frozen=True)
class Eviction(ABC):
    """Keeps the KV pairs of the highest score."""

    allocation: str = "global"
    """Spread of the budget over heads: global, layer, head, pyramid or learned."""
    cap: float = 0.0
    """Longest head as a multiple of the mean; 0 is no bound."""
    floor: float = 0.0
    """Part of an even share that every head gets anyway."""
    shares: str = ""
    """File of `holdfast calibrate`, for `learned`; empty is where that command puts it."""

    name: ClassVar[str]
    by_turn: ClassVar[bool] = False

    def __post_init__(self) -> None:
        self._allocation({})
        if self.shares and self.allocation != "learned":
            raise BadOption(f"{self.name}: shares=… needs allocation=learned")

    @abstractmethod
    def score(self, prefill: SpanPrefill) -> dict[int, Tensor]:
        """Returns `[G, T]` float32 per full-attention layer; the pairs of the highest score are kept."""

    def watch(self, span: Span, past: KVContext, engine: LocalEngine) -> Observer | None:
        """Returns an observer of the prefill, for methods that score by the span's own queries; `score` finds it in
        `read.observer`."""
        return None

    @torch.no_grad()
    def study(self, span: Span, past: KVContext, engine: LocalEngine, progress: Progress = quiet) -> Study:
        watched, allocation = self.watch(span, past, engine), self.find_allocation(engine)
        after, states = engine.capture(past, span.ids, span.positions, prefill_progress(progress), watched)
        prefill = SpanPrefill(span, past, after, states, engine, progress, watched)
        return Study(prefill, self.score(prefill), allocation)

    def find_allocation(self, engine: LocalEngine) -> Allocation:
        """Returns the spread of a budget over this model's heads. Raises BadOption where it has to be learned first."""
        learned = self.allocation == "learned"
        return self._allocation(load_shares(shares_path(self.shares, engine), engine.model.digest) if learned else {})

    def compress(self, study: Study, budget: Budget, progress: Progress = quiet) -> tuple[Segment, ...]:
        chosen = study.allocation.choose(self.rank(study.scores, budget), budget.slots)
        states = study.prefill.states
        masks = [chosen.get(layer) for layer in range(len(states.keys))]
        return (keep_pairs(states, masks, study.span.origins, study.scores),)

    def rank(self, scores: dict[int, Tensor], budget: Budget) -> dict[int, Tensor]:
        """Returns the scores for one budget, for methods whose scores depend on it."""
        return scores

    def _allocation(self, shares: dict[int, list[float]]) -> Allocation:
        try:
            return Allocation(self.allocation, self.cap, self.floor, shares)
        except BadOption as error:
            raise BadOption(f"{self.name}: {error}") from error


def shares_path(given: str, engine: LocalEngine) -> Path:
    """Returns the file of a model's calibrated shares."""
    return Path(given) if given else home() / "shares" / f"{engine.model.digest}.json"


def zero_scores(prefill: SpanPrefill) -> dict[int, Tensor]:
    """Returns scores of zero, `[G, T]` per full-attention layer."""
    model = prefill.engine.model
    return {
        layer: torch.zeros(model.family.kv_heads, len(prefill.span), device=model.device) for layer in prefill.layers
    }
