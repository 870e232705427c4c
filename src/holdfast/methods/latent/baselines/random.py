"""Random KV pairs: the control for every score.

Cost: the prefill alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from holdfast.methods.eviction import Eviction, zero_scores
from holdfast.methods.reference_queries import SpanPrefill


@dataclass(frozen=True)
class Random(Eviction):
    """Keeps KV pairs drawn at random."""

    allocation: str = "head"
    """Spread of the budget over heads: global, layer, head, pyramid or learned."""
    seed: int = 0
    """Seed of the draw; equal seeds keep equal pairs."""

    name: ClassVar[str] = "random"

    def score(self, prefill: SpanPrefill) -> dict[int, Tensor]:
        draw = torch.Generator().manual_seed(self.seed)
        return {layer: torch.rand(s.shape, generator=draw).to(s) for layer, s in zero_scores(prefill).items()}
