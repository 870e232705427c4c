"""The only rounding in the code base: a ratio, a token count or bytes become slots, always downwards."""

from __future__ import annotations

import math
from dataclasses import dataclass

from holdfast.errors import BadOption


@dataclass(frozen=True)
class Budget:
    """The size that a span may keep: `slots` KV pairs per full-attention head on average."""

    slots: int

    def pairs(self, heads: int) -> int:
        """Returns the KV pairs over `heads` layer-heads together, which a ragged allocation may spread as it likes."""
        return self.slots * heads

    def pairs_with_bias(self, heads: int, pair_bytes: int) -> int:
        """Returns `pairs` if each carries a float32 bias as well: fewer of them in the same bytes."""
        return self.pairs(heads) * pair_bytes // (pair_bytes + 4)

    def holds(self, tokens: int) -> bool:
        """Returns True if a span of `tokens` fits as it is."""
        return tokens <= self.slots


def budget_from_ratio(tokens: int, ratio: float) -> Budget:
    """Returns one slot for every `ratio` tokens, rounded down, never fewer than one.

    Raises BadOption if the ratio is below 1, infinite or not a number.
    """
    if not (math.isfinite(ratio) and ratio >= 1):
        raise BadOption(f"ratio must be a finite number of at least 1, got {ratio}; 8 means an eighth of the slots")
    return Budget(max(1, math.floor(tokens / ratio)))
