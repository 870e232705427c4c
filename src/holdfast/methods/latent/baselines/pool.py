"""Pool: contiguous groups of tokens become one slot each, the surprisal-weighted mean of their values.

The target that virtual tokens are tuned towards, taken as it is: un-rotated keys are pooled with the same weights, no
gradient and no query is needed. Cost: one prefill. Serves every family; sliding layers are kept as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from holdfast.context.budget import Budget
from holdfast.context.segments import Segment
from holdfast.engine.kv_context import KVContext
from holdfast.engine.local import LocalEngine
from holdfast.errors import BadOption
from holdfast.methods.base import Span, prefill_progress
from holdfast.methods.latent.baselines.virtual_tokens import pooling_matrix
from holdfast.methods.per_head import HeadSlots, Masks, build_segment, bytes_per_pair, select_pairs
from holdfast.methods.surprisal_weight import pooling_weight
from holdfast.model.states import States
from holdfast.progress import Progress, quiet

CHOICES = {"weights": ("surprisal", "uniform"), "position": ("weighted", "last")}


class Study(NamedTuple):
    """The states of the span."""

    span: Span
    states: States
    full: tuple[int, ...]


@dataclass(frozen=True)
class Pool:
    """Averages neighbouring tokens into slots."""

    weights: str = "surprisal"
    """Weight of a token in the mean of its group: its `surprisal`, or the same for all (`uniform`)."""
    position: str = "weighted"
    """Position of a slot: the `weighted` mean of its group, or its `last`."""
    mass: bool = False
    """True if a slot's bias is the log of the size of its group; costs a number a slot."""

    name: ClassVar[str] = "pool"
    by_turn: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for key, allowed in CHOICES.items():
            if getattr(self, key) not in allowed:
                raise BadOption(f"pool: {key} must be one of {', '.join(allowed)}, got {getattr(self, key)!r}")

    @property
    def pairs_with_bias(self) -> bool:
        """True if the slots carry a bias."""
        return self.mass

    @torch.no_grad()
    def study(self, span: Span, past: KVContext, engine: LocalEngine, progress: Progress = quiet) -> Study:
        _, states = engine.capture(past, span.ids, span.positions, prefill_progress(progress))
        return Study(span, states, engine.model.family.full)

    @torch.no_grad()
    def compress(self, study: Study, budget: Budget, progress: Progress = quiet) -> tuple[Segment, ...]:
        states, slots = study.states, min(budget.slots, len(study.span))
        if self.mass and slots < len(study.span):
            heads = len(study.full) * states.keys[study.full[0]].shape[0]
            slots = max(1, budget.pairs_with_bias(heads, bytes_per_pair(states)) // heads)
        every = {
            layer: torch.ones(states.keys[layer].shape[:2], dtype=torch.bool, device=states.positions.device)
            for layer in study.full
        }
        segment = build_segment(states, self.fill(states, slots, every, {}, progress), study.span.origins)
        return (replace(segment, scores=()),)

    @torch.no_grad()
    def fill(
        self, states: States, slots: int, left: Masks, scores: Mapping[int, Tensor], progress: Progress = quiet
    ) -> dict[int, list[HeadSlots]]:
        """Makes `slots` of every head from the pairs in `left [G, T]`, which another method dropped."""
        weights = torch.ones_like(states.positions) if self.weights == "uniform" else pooling_weight(states.surprisal)
        heads = {}
        for done, (layer, masks) in enumerate(left.items()):
            progress("pool", done, len(left), "")
            worth = scores.get(layer, torch.zeros_like(masks, dtype=torch.float32))
            lost = [select_pairs(states, layer, g, mask, worth[g]) for g, mask in enumerate(masks)]
            heads[layer] = [self._pool_head(head, weights[mask], slots) for head, mask in zip(lost, masks, strict=True)]
        return heads

    def _pool_head(self, head: HeadSlots, weights: Tensor, slots: int) -> HeadSlots:
        if not len(head):
            return head
        matrix = pooling_matrix(weights, min(slots, len(head)))
        inside = (matrix > 0).float()
        at = matrix @ head.positions if self.position == "weighted" else (inside * head.positions).amax(1)
        return HeadSlots(
            matrix @ head.keys.float(),
            matrix @ head.values.float(),
            at.clamp(head.positions[0], head.positions[-1]),  # a mean may round beyond its end
            inside.sum(1).log() if self.mass and len(head) > slots else None,
            matrix @ head.scores,
        )
