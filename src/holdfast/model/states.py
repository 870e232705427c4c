"""The states that a model computed for a span of tokens: the raw material of every latent method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class States:
    """Keys, values and surprisal of T tokens. Sliding layers hold only the last tokens that they can still see."""

    keys: tuple[Tensor, ...]
    """Per layer `[G, T, D]`, un-rotated (after any k-norm, before RoPE)."""
    values: tuple[Tensor, ...]
    """Per layer `[G, T, D]`."""
    positions: Tensor
    """`[T]` float32; a sliding layer's states belong to the last of them."""
    surprise: Callable[[], Tensor]
    """Computes `surprisal`, for which a method pays only if it looks at it."""
    hidden: Tensor
    """`[T, d_model]`, after the final norm."""

    @cached_property
    def surprisal(self) -> Tensor:
        """`[T]` float32 nats: -log p(token | everything before it)."""
        with torch.no_grad():
            return self.surprise()
