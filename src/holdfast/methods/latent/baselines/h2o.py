"""H2O: keep the heavy hitters, what the span's own tokens attended to in sum (Zhang et al., https://arxiv.org/abs/2306.14048).

Cost: the prefill, with its attention weights computed once more. Old tokens gather more because more queries see
them; `mean=true` divides that out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from holdfast.context.budget import Budget
from holdfast.engine.kv_context import KVContext
from holdfast.engine.local import LocalEngine
from holdfast.errors import BadOption
from holdfast.methods.base import Span
from holdfast.methods.eviction import Eviction
from holdfast.methods.reference_queries import ROWS, SpanPrefill
from holdfast.model.attention import Observer


@dataclass(frozen=True)
class H2O(Eviction):
    """Keeps what the span's own tokens attended to most, in sum."""

    allocation: str = "head"
    """Spread of the budget over heads: global, layer, head, pyramid or learned."""
    recent: float = 0.5
    """Part of the budget that the newest tokens get, half in the paper."""
    mean: bool = False
    """Divide by the number of queries that could see a token."""

    name: ClassVar[str] = "h2o"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.recent <= 1:
            raise BadOption(f"h2o: recent must be between 0 and 1 of the budget, got {self.recent}")

    def watch(self, span: Span, past: KVContext, engine: LocalEngine) -> Observer | None:
        return _AttentionSums(len(span), frozenset(engine.model.family.full))

    def score(self, prefill: SpanPrefill) -> dict[int, Tensor]:
        T = len(prefill.span)
        assert isinstance(prefill.observer, _AttentionSums)
        seen_by = torch.arange(T, 0, -1, device=prefill.engine.model.device) if self.mean else 1
        return {layer: prefill.observer.total[layer] / seen_by for layer in prefill.layers}

    def rank(self, scores: dict[int, Tensor], budget: Budget) -> dict[int, Tensor]:
        newest = int(self.recent * budget.slots)
        return {layer: rank_newest_first(s, newest) for layer, s in scores.items()}


def rank_newest_first(scores: Tensor, count: int) -> Tensor:
    """Returns `scores [G, T]` in which the newest `count` tokens rank before all others, the very newest first."""
    T = scores.shape[1]
    token = torch.arange(T, device=scores.device)
    # finite and distinct, for a head that an allocation gives fewer than `count`
    return torch.where(token < T - count, scores, (token + 1) * 1e30)


class _AttentionSums:
    """Sums the attention that each token of the span receives from those after it, pass by pass."""

    def __init__(self, count: int, layers: frozenset[int]) -> None:
        self.count, self.layers = count, layers
        self.total: dict[int, Tensor] = {}
        """Per layer `[G, T]` float32, the mean over the heads of a group."""
        self.read: dict[int, int] = {}

    def __call__(self, layer: int, query: Tensor, mass: Tensor, key: Tensor) -> None:
        if layer not in self.layers:
            return
        H, Q, D = query.shape[1:]
        G = key.shape[1]
        total = self.total.setdefault(layer, query.new_zeros(G, self.count, dtype=torch.float32))
        before = self.read.get(layer, 0)
        self.read[layer] = n = before + Q
        keys = key[0, :, -n:]
        step = max(1, ROWS // H)
        for at in range(0, Q, step):
            q, m = query[0, :, at : at + step], mass[0, :, at : at + step]
            logits = (q.reshape(G, -1, D) @ keys.transpose(1, 2)).float() - m.reshape(G, -1, 1)
            logits = logits.view(G, H // G, -1, n)
            at_query = before + at + torch.arange(q.shape[1], device=q.device)
            logits.masked_fill_(torch.arange(n, device=q.device) > at_query[:, None], float("-inf"))
            total[:, :n] += logits.exp().sum(2).mean(1)
