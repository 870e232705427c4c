"""Informed KVzip: a repeat's queries count by how much the span tells the model there.

KVzip keeps what any query of a repeat attends to, boring tokens as well as secrets. What the model would have guessed
anyway needs no slots: each query weighs by the surprisal of the token that it predicts, as it was at first reading.
Queries that predict the token of a fact (a path, a name, a number, an error) count some times more still: those are
what an agent cannot make up again. A repeat looks at its own neighbourhood only, so the cost is linear.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from math import inf
from typing import ClassVar

import torch
from torch import Tensor

from holdfast.errors import BadOption
from holdfast.methods.eviction import Eviction, zero_scores
from holdfast.methods.reference_queries import (
    WORTHS,
    SpanPrefill,
    check_query_options,
    raise_to_attention,
    reference_queries,
)
from holdfast.methods.surprisal_weight import LEAST, SCALE, query_weight


@dataclass(frozen=True)
class Informed(Eviction):
    """Keeps the KV pairs that a repeat attends to where the span is informative."""

    queries: str = "repeat"
    """Reference queries: repeat, own, later, study, random, or several joined by `+`; queries of
    others than `repeat` all count fully."""
    chunk: int = 256
    """Tokens repeated at one time."""
    reach: int = 256
    """Tokens around a chunk that its repeat sees, which makes the cost linear; 0 lets it see the whole span."""
    worth: str = "surprisal"
    """Worth of a query: the `surprisal` of the token that it predicts at first reading, or the `gain`, that
    minus its surprisal in the repeat (the same within noise, and a quarter of a prefill dearer on a small model)."""
    exponent: float = 0.5
    """Of the weight; 0 is plain KVzip."""
    scale: float = SCALE
    """Nats at which a query has full weight."""
    least: float = LEAST
    """Weight (before the exponent) of a query that learns nothing."""
    facts: float = 2.0
    """Factor on the weight of a query that predicts a token of a fact (path, name, number, error, …); 1 is no
    difference."""

    name: ClassVar[str] = "informed"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_query_options(self.name, self.queries, self.chunk, self.reach)
        if self.worth not in WORTHS:
            raise BadOption(f"informed: worth must be one of {', '.join(WORTHS)}, got {self.worth!r}")
        if not (0 <= self.exponent < inf and 0 < self.scale < inf and 0 < self.least <= 1 and 1 <= self.facts < inf):
            raise BadOption(
                "informed: exponent must be finite and at least 0, scale finite and above 0, least above 0 and at "
                f"most 1, facts at least 1, got {self.exponent}, {self.scale}, {self.least} and {self.facts}"
            )

    def score(self, prefill: SpanPrefill) -> dict[int, Tensor]:
        scores = zero_scores(prefill)
        for one in reference_queries(prefill, self.queries, self.chunk, self.reach):
            nats = one.nats(self.worth)
            known = self.log_weight(nats) if nats.any() else torch.zeros_like(nats)  # other sources count fully
            weight = known + one.predicts_fact * math.log(self.facts)
            for layer, s in scores.items():
                raise_to_attention(s, one, layer, prefill.keys(layer), weight)
        return scores

    def log_weight(self, nats: Tensor) -> Tensor:
        """Returns the log of the weight of queries that are worth `nats [Q]`."""
        return query_weight(nats, self.scale, self.least).log() * self.exponent
