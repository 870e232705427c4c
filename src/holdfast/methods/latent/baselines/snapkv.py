"""SnapKV: keep what the newest tokens of the span look at (Li et al., https://arxiv.org/abs/2404.14469).

Query-aware by design: it knows what matters to the last tokens, not to a later question. Cost: the prefill alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from holdfast.context.budget import Budget
from holdfast.engine.kv_context import KVContext
from holdfast.engine.local import LocalEngine
from holdfast.errors import BadOption
from holdfast.methods.base import Span
from holdfast.methods.eviction import Eviction
from holdfast.methods.latent.baselines.h2o import rank_newest_first
from holdfast.methods.reference_queries import QueryRecorder, ReferenceQueries, SpanPrefill, log_attention
from holdfast.model.attention import Observer


@dataclass(frozen=True)
class SnapKV(Eviction):
    """Keeps what the newest tokens of the span look at."""

    allocation: str = "head"
    """Spread of the budget over heads: global, layer, head, pyramid or learned."""
    observed: int = 64
    """Newest tokens whose queries count, and which stay themselves."""
    kernel: int = 5
    """Neighbouring tokens over which attention is averaged (odd)."""

    name: ClassVar[str] = "snapkv"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.observed < 1 or self.kernel < 1 or self.kernel % 2 == 0:
            raise BadOption("snapkv: observed must be at least 1 token, and kernel odd and at least 1")

    def watch(self, span: Span, past: KVContext, engine: LocalEngine) -> Observer | None:
        return _Newest(self.observed)

    def score(self, prefill: SpanPrefill) -> dict[int, Tensor]:
        T, newest = len(prefill.span), min(self.observed, len(prefill.span))
        assert isinstance(prefill.observer, _Newest)
        gain = torch.zeros(newest, device=prefill.engine.model.device)
        one = ReferenceQueries(prefill.observer, slice(0, T), lambda kind: gain, gain.bool(), first_token=T - newest)
        return {layer: self._pool_attention(one, layer, prefill.keys(layer), newest) for layer in prefill.layers}

    def rank(self, scores: dict[int, Tensor], budget: Budget) -> dict[int, Tensor]:
        # a budget below the window keeps the newest of it
        return {layer: rank_newest_first(s, min(self.observed, budget.slots)) for layer, s in scores.items()}

    def _pool_attention(self, one: ReferenceQueries, layer: int, keys: Tensor, newest: int) -> Tensor:
        G, T = keys.shape[:2]
        if newest == T:
            return keys.new_ones(G, T, dtype=torch.float32)
        got = torch.cat([part.exp() for _, part in log_attention(one, layer, keys)], dim=2)
        mean = got[..., : T - newest].mean(2)  # over the observed queries, [G, H/G, T - newest]
        pooled = F.avg_pool1d(mean, self.kernel, stride=1, padding=self.kernel // 2).mean(1)
        return F.pad(pooled, (0, newest), value=float(pooled.max()) + 1)


class _Newest(QueryRecorder):
    """Keeps the queries of the newest tokens over several passes."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def __call__(self, layer: int, query: Tensor, mass: Tensor, key: Tensor) -> None:
        super().__call__(layer, query, mass, key)
        self.queries[layer] = self.queries[layer][:, -self.count :].clone()  # [H, n, D]
        self.mass[layer] = self.mass[layer][:, -self.count :].clone()  # [H, n]
