"""StreamingLLM: keep the first tokens of the span and the newest (Xiao et al., https://arxiv.org/abs/2309.17453).

Cost: the prefill alone. What `truncate` does with text, done with states that have seen what is dropped.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from holdfast.errors import BadOption
from holdfast.methods.eviction import Eviction, zero_scores
from holdfast.methods.reference_queries import SpanPrefill


@dataclass(frozen=True)
class Streaming(Eviction):
    """Keeps the first tokens of the span and the newest."""

    allocation: str = "head"
    """Spread of the budget over heads: global, layer, head, pyramid or learned."""
    sinks: int = 4
    """First tokens that stay."""

    name: ClassVar[str] = "streaming"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sinks < 0:
            raise BadOption(f"streaming: sinks must be at least 0 tokens, got {self.sinks}")

    def score(self, prefill: SpanPrefill) -> dict[int, Tensor]:
        T = len(prefill.span)
        order = torch.arange(T, device=prefill.engine.model.device).float()
        order[: self.sinks] = T
        return {layer: order.expand_as(s).clone() for layer, s in zero_scores(prefill).items()}
