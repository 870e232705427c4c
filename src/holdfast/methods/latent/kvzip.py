"""KVzip: keep the KV pairs that the model looks at when it repeats the span (Kim et al., https://arxiv.org/abs/2505.23416).

The score of a pair is the largest attention that it receives from any reference query, by default those of a
teacher-forced repeat; the best pairs stay under ONE threshold over all layers and heads, so heads keep different
numbers. Cost: one prefill and one repeat, in chunks. Serves every family; sliding layers are kept as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from holdfast.methods.eviction import Eviction, zero_scores
from holdfast.methods.reference_queries import SpanPrefill, check_query_options, raise_to_attention, reference_queries


@dataclass(frozen=True)
class KVzip(Eviction):
    """Keeps the KV pairs that a repeat of the span attends to."""

    queries: str = "repeat"
    """Reference queries: repeat, own, later, study, random, or several joined by `+`."""
    chunk: int = 256
    """Tokens repeated at one time. Short chunks keep the request near and did better than long ones (docs/log.md)."""
    reach: int = 0
    """Tokens around a chunk that its repeat sees, which makes the cost linear; 0 lets it see the whole span."""

    name: ClassVar[str] = "kvzip"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_query_options(self.name, self.queries, self.chunk, self.reach)

    def score(self, prefill: SpanPrefill) -> dict[int, Tensor]:
        scores = zero_scores(prefill)
        for one in reference_queries(prefill, self.queries, self.chunk, self.reach):
            for layer, s in scores.items():
                raise_to_attention(s, one, layer, prefill.keys(layer))
        return scores
