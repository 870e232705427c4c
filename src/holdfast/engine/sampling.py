"""Choosing the next token."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast.errors import BadOption


@dataclass(frozen=True)
class Sampling:
    """The choice of the next token; the default is greedy."""

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not (0 <= self.temperature < float("inf") and 0 < self.top_p <= 1 and 0 <= self.seed < 1 << 63):
            raise BadOption(
                "sampling needs a temperature of at least 0, 0 < top_p <= 1 and a seed from 0 to 2^63 - 1, got "
                f"{self.temperature}, {self.top_p} and {self.seed}"
            )

    def generator(self) -> torch.Generator:
        """Returns a fresh source of randomness, so that the same seed gives the same text."""
        return torch.Generator().manual_seed(self.seed)

    def choose(self, logits: Tensor, generator: torch.Generator) -> int:
        """Returns the next token id from `logits [V]` float32."""
        if self.temperature == 0:
            return int(logits.argmax())
        p, order = (logits / self.temperature).softmax(-1).sort(descending=True)
        p[p.cumsum(-1) - p > self.top_p] = 0  # the first token always stays
        return int(order[torch.multinomial(p.cpu() / p.sum().cpu(), 1, generator=generator)])
