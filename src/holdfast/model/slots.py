"""KV pairs of one layer, packed head by head without padding, as plain tensors. Fewer bits: `quantized_slots.py`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Generic, Literal, TypeVar

import torch
from torch import Tensor

from holdfast._moved import find_name
from holdfast.model.rope import Rope

if TYPE_CHECKING:
    from holdfast.model.quantized_slots import QuantizedRows

MODEL: Literal["model"] = "model"
"""The form of plain slots: as the model computes them."""
Rows = TypeVar("Rows", Tensor, "QuantizedRows")


@dataclass(frozen=True)
class PackedSlots(Generic[Rows]):
    """The fields that plain and quantized slots share. G heads hold N slots together."""

    keys: Rows
    """`[N, D]`; N is the sum of `lengths`."""
    values: Rows
    """`[N, D]`"""
    positions: Tensor
    """`[N]` float32"""
    bias: Tensor | None
    """`[N]` float32, added to the logits (log-mass of what a slot stands for); None is all zero."""
    lengths: tuple[int, ...]
    """Slots of each of the G heads."""

    def heads(self) -> Iterator[tuple[Rows, Rows, Tensor, Tensor | None]]:
        """Yields keys, values, positions and bias of each head in turn (views)."""
        # views of what is being trained belong to one graph; others are made once, because decoding asks at every token
        trains = isinstance(self.keys, Tensor) and self.keys.requires_grad
        return iter(self._split_heads() if trains else self._views)

    @cached_property
    def _views(self) -> list[tuple[Rows, Rows, Tensor, Tensor | None]]:
        return self._split_heads()

    def _split_heads(self) -> list[tuple[Rows, Rows, Tensor, Tensor | None]]:
        ends = list(accumulate(self.lengths, initial=0))
        parts = [slice(a, b) for a, b in pairwise(ends)]
        bias = self.bias
        return [(self.keys[p], self.values[p], self.positions[p], None if bias is None else bias[p]) for p in parts]

    @property
    def nbytes(self) -> int:
        """Bytes of keys, values and bias in memory."""
        return self.keys.nbytes + self.values.nbytes + (0 if self.bias is None else self.bias.nbytes)


@dataclass(frozen=True)
class Slots(PackedSlots[Tensor]):
    """Slots as plain tensors; keys are un-rotated in a segment and rotated at `positions` in a cache."""

    @property
    def form(self) -> Literal["model"]:
        return MODEL

    @property
    def dense(self) -> bool:
        """True if the heads are equally long and unbiased, so that a plain `[G, n, D]` tensor holds them."""
        return self.bias is None and len(set(self.lengths)) == 1

    def to(self, device: torch.device, dtype: torch.dtype) -> Slots:
        """Returns the slots on a model's device and in its dtype."""
        bias = None if self.bias is None else self.bias.to(device)
        keys, values = self.keys.to(device, dtype), self.values.to(device, dtype)
        return Slots(keys, values, self.positions.to(device), bias, self.lengths)

    def nbytes_at(self, itemsize: int) -> int:
        """Returns the bytes of the same slots where a number takes `itemsize` of them."""
        return self.nbytes - sum(rows.numel() * (rows.itemsize - itemsize) for rows in (self.keys, self.values))

    def rotate(self, rope: Rope) -> Slots:
        """Rotates un-rotated keys to their positions, as a cache holds them."""
        return replace(self, keys=rope.rotate(self.keys, self.positions))

    def plain(self, dtype: torch.dtype) -> Slots:
        """Returns the slots themselves: a cache holds these in the model's dtype."""
        return self


if not TYPE_CHECKING:  # so that a misspelt name is still an error to mypy

    def __getattr__(name: str) -> object:
        return find_name("model.slots", name)
