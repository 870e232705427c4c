"""Expected Attention: keep what future queries are likely to attend to, judged from the span's own queries
(Devoto et al., https://arxiv.org/abs/2510.00636).

Un-rotated queries of a head are taken as Gaussian; rotated by the mean rotation over the next positions, they give
an expected weight for each key, which counts by the norm of its value. Cost: the prefill alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import ClassVar

import torch
from torch import Tensor

from holdfast.engine.kv_context import KVContext
from holdfast.engine.local import LocalEngine
from holdfast.errors import BadOption
from holdfast.methods.base import Span
from holdfast.methods.eviction import Eviction
from holdfast.methods.reference_queries import SpanPrefill
from holdfast.model.attention import Observer
from holdfast.model.family import Family


@dataclass(frozen=True)
class ExpectedAttention(Eviction):
    """Keeps what future queries like the span's own would attend to."""

    allocation: str = "head"
    """Spread of the budget over heads: global, layer, head, pyramid or learned."""
    future: int = 512
    """Positions after the span over which queries are expected."""
    sinks: int = 4
    """First tokens of a session that are kept anyway and left out of the statistics."""
    epsilon: float = 0.02
    """Added to the expected weight before the norm of the value counts."""

    name: ClassVar[str] = "expected_attention"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.future >= 1 and self.sinks >= 0 and 0 <= self.epsilon < inf):
            raise BadOption(
                "expected_attention: future must be at least 1, sinks at least 0, epsilon finite and at least 0, got "
                f"{self.future}, {self.sinks} and {self.epsilon}"
            )

    def watch(self, span: Span, past: KVContext, engine: LocalEngine) -> Observer | None:
        return _Moments(engine.model.family, span.positions, self._sinks(span))

    def score(self, prefill: SpanPrefill) -> dict[int, Tensor]:
        assert isinstance(prefill.observer, _Moments)
        sinks, end = self._sinks(prefill.span), prefill.span.start + len(prefill.span)
        positions = torch.arange(end, end + self.future, device=prefill.engine.model.device).float()
        return {layer: self._layer(prefill, layer, sinks, positions) for layer in prefill.layers}

    def _layer(self, prefill: SpanPrefill, layer: int, sinks: int, positions: Tensor) -> Tensor:
        assert isinstance(prefill.observer, _Moments)
        mean, cov = prefill.observer.moments(layer)
        turn = prefill.engine.model.family.layers[layer].rope.mean_rotation(mean.shape[-1], positions)
        mean, cov = mean @ turn.T, turn @ cov @ turn.T
        keys = prefill.keys(layer)[:, sinks:].float()
        G, _, D = keys.shape
        mean, cov = mean.view(G, -1, D), cov.view(G, -1, D, D)
        spread = ((keys[:, None] @ cov) * keys[:, None]).sum(-1)  # variance of each key's logit, [G, H/G, n]
        logits = mean @ keys.transpose(1, 2) + spread / 2
        weight = logits.softmax(-1).mean(1)
        values = prefill.states.values[layer][:, sinks:].float().norm(dim=-1)
        scores = (weight + self.epsilon) * values
        return torch.nn.functional.pad(scores, (sinks, 0), value=float(scores.max()) + 1)

    def _sinks(self, span: Span) -> int:
        return min(self.sinks, len(span) - 1) if span.start == 0 else 0


class _Moments:
    """Mean and covariance of each head's un-rotated, scaled queries, summed up pass by pass."""

    def __init__(self, family: Family, positions: Tensor, skip: int) -> None:
        self.family, self.positions, self.skip = family, positions, skip
        self.count: dict[int, int] = {}
        self.total: dict[int, Tensor] = {}
        self.square: dict[int, Tensor] = {}

    def __call__(self, layer: int, query: Tensor, mass: Tensor, key: Tensor) -> None:
        if layer not in self.family.full:
            return
        before = self.count.get(layer, 0)
        self.count[layer] = before + query.shape[2]
        positions = self.positions[before : before + query.shape[2]].to(query.device)
        q = self.family.layers[layer].rope.unrotate(query[0].float(), positions)
        q = q[:, max(0, self.skip - before) :].double()
        self.total[layer] = self.total.get(layer, 0) + q.sum(1)
        self.square[layer] = self.square.get(layer, 0) + q.transpose(1, 2) @ q

    def moments(self, layer: int) -> tuple[Tensor, Tensor]:
        """Returns the mean `[H, D]` and the covariance `[H, D, D]` of a layer's queries, float32."""
        n = self.count[layer] - self.skip
        mean = self.total[layer] / n
        return mean.float(), (self.square[layer] / n - mean[:, :, None] * mean[:, None]).float()
