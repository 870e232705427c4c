"""Merge: what is dropped is folded into its nearest kept neighbour, by cosine of un-rotated keys, head by head.

The values of a kept slot become the weighted mean of its own and of those folded in; keys may follow, and the weight
that was folded in may become the slot's log-mass. Cost: that of the base method. Serves every family.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from holdfast.context.budget import Budget
from holdfast.context.segments import Segment
from holdfast.engine.kv_context import KVContext
from holdfast.engine.local import LocalEngine
from holdfast.errors import BadOption
from holdfast.methods.base import Span
from holdfast.methods.eviction import Study
from holdfast.methods.inner_methods import build_inner_eviction
from holdfast.methods.per_head import LOG_BOUND, HeadSlots, build_segment, pay_for_bias, select_pairs
from holdfast.progress import Progress, quiet

WEIGHTS = ("score", "even")


@dataclass(frozen=True)
class Merge:
    """Keeps KV pairs and folds the others into them."""

    base: str = "informed"
    """The method that scores the pairs, and allocates them to heads."""
    weights: str = "score"
    """Weight of a pair in a mean: its `score`, or the same for all (`even`)."""
    keys: bool = False
    """True if keys are folded like values."""
    mass: bool = False
    """True if a slot's bias is log(1 + the weight folded into it), its own weight being 1; costs a number a slot."""
    least: float = 0.5
    """Least cosine at which a dropped pair is folded in; below it is lost."""

    name: ClassVar[str] = "merge"
    by_turn: ClassVar[bool] = False

    def __post_init__(self) -> None:
        build_inner_eviction(self.name, "base", self.base)
        if self.weights not in WEIGHTS:
            raise BadOption(f"{self.name}: weights must be one of {', '.join(WEIGHTS)}, got {self.weights!r}")
        if not -1 <= self.least <= 1:
            raise BadOption(f"{self.name}: least is a cosine, between -1 and 1, got {self.least}")

    @torch.no_grad()
    def study(self, span: Span, past: KVContext, engine: LocalEngine, progress: Progress = quiet) -> Study:
        return build_inner_eviction(self.name, "base", self.base).study(span, past, engine, progress)

    @torch.no_grad()
    def compress(self, study: Study, budget: Budget, progress: Progress = quiet) -> tuple[Segment, ...]:
        states, scores = study.prefill.states, study.scores
        ranked = build_inner_eviction(self.name, "base", self.base).rank(scores, budget)
        chosen = study.allocation.choose(ranked, budget.slots)
        if self.mass and not budget.holds(len(study.span)):
            chosen = pay_for_bias(chosen, ranked, budget, states)
        heads = {}
        for done, (layer, masks) in enumerate(chosen.items()):
            progress("merge", done, len(chosen), "")
            kept = [select_pairs(states, layer, g, mask, scores[layer][g]) for g, mask in enumerate(masks)]
            lost = [select_pairs(states, layer, g, ~mask, scores[layer][g]) for g, mask in enumerate(masks)]
            weights = self._weights(scores, layer, masks)
            heads[layer] = [self._fold(*pair) for pair in zip(kept, lost, weights, strict=True)]
        return (build_segment(states, heads, study.span.origins),)

    def _weights(self, scores: Mapping[int, Tensor], layer: int, masks: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Returns the weights, at least 0, of the kept and of the dropped pairs of each head."""
        s = scores[layer].float()
        w = torch.ones_like(s) if self.weights == "even" else s - s.amin(1, keepdim=True).clamp(max=0) + 1e-9
        w = w.nan_to_num(posinf=1.0, neginf=0.0)
        return [(row[mask], row[~mask]) for row, mask in zip(w, masks, strict=True)]

    def _fold(self, kept: HeadSlots, lost: HeadSlots, weights: tuple[Tensor, Tensor]) -> HeadSlots:
        if not len(kept) or not len(lost):
            return kept
        own, others = weights
        alike, near = (F.normalize(lost.keys.float(), dim=1) @ F.normalize(kept.keys.float(), dim=1).T).max(1)
        others = others * (alike >= self.least)
        total = own.index_add(0, near, others)

        def mean(mine: Tensor, theirs: Tensor) -> Tensor:
            summed = (own[:, None] * mine.float()).index_add(0, near, others[:, None] * theirs.float())
            return summed / total[:, None]

        return replace(
            kept,
            values=mean(kept.values, lost.values),
            keys=mean(kept.keys, lost.keys) if self.keys else kept.keys,
            bias=(total / own).log().clamp(max=LOG_BOUND) if self.mass else None,
        )
