"""Knorm: keep the keys of the smallest norm (Devoto et al., https://arxiv.org/abs/2406.11430).

Cost: the prefill alone; no query is looked at.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from holdfast.methods.eviction import Eviction
from holdfast.methods.reference_queries import SpanPrefill


@dataclass(frozen=True)
class Knorm(Eviction):
    """Keeps the keys of the smallest norm."""

    allocation: str = "head"
    """Spread of the budget over heads: global, layer, head, pyramid or learned."""

    name: ClassVar[str] = "knorm"

    def score(self, prefill: SpanPrefill) -> dict[int, Tensor]:
        return {layer: -prefill.keys(layer).float().norm(dim=-1) for layer in prefill.layers}
