"""Hybrid: one method keeps what it thinks best, a second one stands for what the first dropped.

A second method that scores pairs takes the best of those that are left, head by head; one that can fill slots from
what is left (`pool`) does so; any other (`virtual_tokens`) stands for the whole span, in segments before the first's.
Cost: both studies. Serves every family.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from holdfast.context.budget import Budget
from holdfast.context.segments import Segment
from holdfast.context.surgery import keep_pairs
from holdfast.engine.kv_context import KVContext
from holdfast.engine.local import LocalEngine
from holdfast.errors import BadOption
from holdfast.methods import eviction
from holdfast.methods.base import LatentMethod, Span
from holdfast.methods.inner_methods import build_inner, build_inner_eviction
from holdfast.methods.per_head import HeadSlots, Masks, build_segment, bytes_per_pair, concatenate, select_pairs
from holdfast.methods.reference_queries import SpanPrefill
from holdfast.model.states import States
from holdfast.progress import Progress, quiet


@runtime_checkable
class Filler(Protocol):
    """A method that can make slots of the pairs that another one dropped."""

    @property
    def pairs_with_bias(self) -> bool: ...

    def fill(
        self, states: States, slots: int, left: Masks, scores: Mapping[int, Tensor], progress: Progress = quiet
    ) -> dict[int, list[HeadSlots]]: ...


class Study(NamedTuple):
    """The studies of both methods."""

    first: eviction.Study
    second: Any
    """None where the second method works on the states of the first."""

    @property
    def prefill(self) -> SpanPrefill:
        return self.first.prefill

    @property
    def span(self) -> Span:
        return self.first.span

    @property
    def scores(self) -> dict[int, Tensor]:
        return self.first.scores

    def with_scores(self, scores: dict[int, Tensor]) -> Study:
        """Returns the study with other scores."""
        return self._replace(first=self.first.with_scores(scores))


@dataclass(frozen=True)
class Hybrid:
    """Splits the budget between a method that keeps KV pairs and one that stands for the rest."""

    first: str = "informed"
    """The method that keeps the pairs of the highest score."""
    second: str = "pool"
    """The method that stands for what the first dropped."""
    share: float = 0.8
    """Part of the budget that the first one has."""

    name: ClassVar[str] = "hybrid"
    by_turn: ClassVar[bool] = False

    def __post_init__(self) -> None:
        build_inner_eviction(self.name, "first", self.first)
        build_inner(self.name, "second", self.second)
        if not 0 < self.share < 1:
            raise BadOption(f"{self.name}: share must be between 0 and 1 of the budget, got {self.share}")

    def study(self, span: Span, past: KVContext, engine: LocalEngine, progress: Progress = quiet) -> Study:
        first = build_inner_eviction(self.name, "first", self.first).study(span, past, engine, progress)
        second = build_inner(self.name, "second", self.second)
        return Study(first, None if isinstance(second, Filler) else second.study(span, past, engine, progress))

    def compress(self, study: Study, budget: Budget, progress: Progress = quiet) -> tuple[Segment, ...]:
        first, second = (
            build_inner_eviction(self.name, "first", self.first),
            build_inner(self.name, "second", self.second),
        )
        states, scores = study.first.prefill.states, study.first.scores
        slots = self._slots(budget, second, study)
        most = slots if budget.holds(len(study.span)) else max(1, math.floor(self.share * slots))
        chosen = study.first.allocation.choose(first.rank(scores, Budget(most)), most)
        rest = Budget(slots - most)
        if isinstance(second, Filler) and rest.slots:
            left = {layer: ~mask for layer, mask in chosen.items()}
            more = second.fill(states, rest.slots, left, scores, progress)
            heads = {
                layer: [
                    concatenate(select_pairs(states, layer, g, mask, scores[layer][g]), more[layer][g])
                    for g, mask in enumerate(masks)
                ]
                for layer, masks in chosen.items()
            }
            return (build_segment(states, heads, study.span.origins),)
        before: tuple[Segment, ...] = ()
        if isinstance(second, eviction.Eviction) and rest.slots:
            chosen = self._both(chosen, second, study.second, rest)
        elif rest.slots:
            before = second.compress(study.second, rest, progress)
        masks = [chosen.get(layer) for layer in range(len(states.keys))]
        return (*before, keep_pairs(states, masks, study.span.origins, scores))

    def _slots(self, budget: Budget, second: LatentMethod, study: Study) -> int:
        """Returns the slots of a head that both methods share, fewer if each has to carry a bias."""
        T, scores = len(study.span), study.first.scores
        if budget.holds(T) or not (isinstance(second, Filler) and second.pairs_with_bias):
            return min(budget.slots, T)
        heads = sum(len(s) for s in scores.values())
        return max(1, budget.pairs_with_bias(heads, bytes_per_pair(study.first.prefill.states)) // heads)

    def _both(self, chosen: Masks, second: eviction.Eviction, study: eviction.Study, rest: Budget) -> dict[int, Tensor]:
        """Returns masks of the pairs of the first method and the best of the others by the second."""
        ranked = second.rank(study.scores, rest)
        ranked = {layer: s.masked_fill(chosen[layer], -torch.inf) for layer, s in ranked.items()}
        more = study.allocation.choose(ranked, rest.slots)
        return {layer: mask | more[layer] for layer, mask in chosen.items()}
