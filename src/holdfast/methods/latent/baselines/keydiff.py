"""KeyDiff: keep the keys that are least like the others of their head (Park et al., https://arxiv.org/abs/2504.15364).

Cost: the prefill alone; no query is looked at.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from holdfast.methods.eviction import Eviction
from holdfast.methods.reference_queries import SpanPrefill


@dataclass(frozen=True)
class KeyDiff(Eviction):
    """Keeps the keys that are least like the others of their head."""

    allocation: str = "head"
    """Spread of the budget over heads: global, layer, head, pyramid or learned."""

    name: ClassVar[str] = "keydiff"

    def score(self, prefill: SpanPrefill) -> dict[int, Tensor]:
        return {layer: _unlike(prefill.keys(layer).float()) for layer in prefill.layers}


def _unlike(keys: Tensor) -> Tensor:
    anchor = F.normalize(keys, dim=-1).mean(1, keepdim=True)
    return -F.cosine_similarity(keys, anchor, dim=-1)
