"""KV pairs of one layer, packed head by head without padding: as plain tensors, or coded in fewer bits.

Coded keys stay un-rotated, in a cache too, for two reasons. Un-rotated keys of a head share a strong mean, and without
it they need a third of the range; and rounding them again behind the rotation would add two fifths to their error.
`plain` turns them; it makes a temporary for one layer at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Generic, Literal, TypeVar, get_args

import torch
from torch import Tensor

from holdfast.model.rope import Rope

Form = Literal["model", "bfloat16", "int8", "int4"]
"""How slots may be held: as the model computes, or coded."""
FORMS: tuple[Form, ...] = get_args(Form)
MODEL: Form = "model"
CODES: dict[Form, torch.dtype] = {"bfloat16": torch.bfloat16, "int8": torch.int8, "int4": torch.uint8}
GROUP = 32  # numbers that share a scale; all of a row where this does not divide it
_LOWEST: dict[Form, int] = {"int8": -128, "int4": -8}


@dataclass(frozen=True)
class Coded:
    """Rows `[N, D]` in fewer bits. A row of 64 numbers takes 128, 68 or 36 bytes."""

    codes: Tensor
    """`[N, D]` bfloat16 or int8, or `[N, D / 2]` uint8: two codes of four bits, the first half of the row in the low
    ones, 8 added to each."""
    scales: Tensor | None
    """`[N, D / 32]` bfloat16, what codes are multiplied by; None where the codes are the numbers."""

    @property
    def form(self) -> Form:
        return next(form for form, dtype in CODES.items() if dtype == self.codes.dtype)

    @property
    def nbytes(self) -> int:
        return self.codes.nbytes + (0 if self.scales is None else self.scales.nbytes)

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, rows: slice | Tensor) -> Coded:
        return Coded(self.codes[rows], None if self.scales is None else self.scales[rows])

    def to(self, device: torch.device) -> Coded:
        return Coded(self.codes.to(device), None if self.scales is None else self.scales.to(device))

    def plain(self, dtype: torch.dtype) -> Tensor:
        """The rows as numbers, `[N, D]`."""
        if self.scales is None:
            return self.codes.to(dtype)
        wide = torch.promote_types(dtype, torch.float32)
        codes = self.codes
        if codes.dtype == torch.uint8:
            codes = torch.cat((codes & 15, codes >> 4), dim=1).to(torch.int8) - 8
        N, D = codes.shape
        groups = self.scales.shape[1]
        return (codes.view(N, groups, D // groups).to(wide) * self.scales[..., None].to(wide)).view(N, D).to(dtype)


def encode(rows: Tensor, form: Form) -> Coded:
    """`rows [N, D]` rounded to one of `CODES`.

    A group's number of the largest size gets the lowest code, so that none of the 16 or 256 codes is unused (as in
    GGUF's Q4_0, https://github.com/ggml-org/ggml); codes are rounded against the scale as it is held.
    """
    if form not in _LOWEST:
        return Coded(rows.to(CODES[form]), None)
    (N, D), low = rows.shape, _LOWEST[form]
    groups = rows.float().reshape(N, D // group(D), group(D))
    extreme = groups.gather(2, groups.abs().argmax(2, keepdim=True))
    scales = (extreme / low).to(torch.bfloat16)
    steps = scales.float().masked_fill(scales == 0, 1.0)
    codes = (groups / steps).round().clamp(low, -low - 1).reshape(N, D)
    if form == "int4":
        codes = codes + 8
        return Coded((codes[:, : D // 2] + 16 * codes[:, D // 2 :]).to(torch.uint8), scales[..., 0])
    return Coded(codes.to(torch.int8), scales[..., 0])


def group(D: int) -> int:
    """How many numbers of a row of `D` share a scale."""
    return GROUP if D % GROUP == 0 else D


Rows = TypeVar("Rows", Tensor, Coded)


def _trained(rows: Tensor | Coded) -> bool:
    return isinstance(rows, Tensor) and rows.requires_grad


@dataclass(frozen=True)
class _Packed(Generic[Rows]):
    """What both kinds of slots are made of."""

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
        """Keys, values, positions and bias of each head in turn (views)."""
        # views of what is being trained belong to one graph; others are made once, because decoding asks at every token
        return iter(self._heads() if _trained(self.keys) else self._views)

    @cached_property
    def _views(self) -> list[tuple[Rows, Rows, Tensor, Tensor | None]]:
        return self._heads()

    def _heads(self) -> list[tuple[Rows, Rows, Tensor, Tensor | None]]:
        ends = list(accumulate(self.lengths, initial=0))
        parts = [slice(a, b) for a, b in pairwise(ends)]
        bias = self.bias
        return [(self.keys[p], self.values[p], self.positions[p], None if bias is None else bias[p]) for p in parts]

    @property
    def nbytes(self) -> int:
        """Bytes really held by keys, values and bias."""
        return self.keys.nbytes + self.values.nbytes + (0 if self.bias is None else self.bias.nbytes)


@dataclass(frozen=True)
class Slots(_Packed[Tensor]):
    """Slots as plain tensors; keys are un-rotated in a segment and rotated at `positions` in a cache."""

    @property
    def form(self) -> Form:
        return MODEL

    @property
    def dense(self) -> bool:
        """Whether the heads are equally long and unbiased, so that a plain `[G, n, D]` tensor holds them."""
        return self.bias is None and len(set(self.lengths)) == 1

    def to(self, device: torch.device, dtype: torch.dtype) -> Slots:
        """The slots on a model's device and in its dtype."""
        bias = None if self.bias is None else self.bias.to(device)
        keys, values = self.keys.to(device, dtype), self.values.to(device, dtype)
        return Slots(keys, values, self.positions.to(device), bias, self.lengths)

    def turned(self, rope: Rope) -> Slots:
        """Un-rotated slots as a cache holds them."""
        return replace(self, keys=rope.rotate(self.keys, self.positions))

    def plain(self, dtype: torch.dtype) -> Slots:
        """The slots themselves: a cache holds these in the model's dtype."""
        return self

    def coded(self, form: Form) -> CodedSlots:
        """The same slots in one of the forms of `CODES`; keys must be un-rotated."""
        runs = torch.tensor(self.lengths, device=self.keys.device)[:, None]
        keys, centre = self.keys, None
        if form in _LOWEST:
            means = [head[0].float().sum(0) / max(1, len(head[0])) for head in self.heads()]
            centre = torch.stack(means)[:, None].to(torch.bfloat16)
            keys = keys.float() - _over(centre.float(), runs)
        k, v = encode(keys, form), encode(self.values, form)
        return CodedSlots(k, v, self.positions, self.bias, self.lengths, runs, centre)


@dataclass(frozen=True)
class CodedSlots(_Packed[Coded]):
    """Slots in fewer bits; keys are un-rotated everywhere."""

    runs: Tensor
    """`[G, P]` int64: how many of a head's slots, one after another, came with each of P segments; 1 in a segment."""
    centre: Tensor | None
    """`[G, P, D]` bfloat16: the mean un-rotated key of each run, of which `keys` are the rest; None is zero."""
    rope: Rope | None = None
    """What turns the keys in a cache; None in a segment."""

    @property
    def form(self) -> Form:
        return self.keys.form

    @property
    def nbytes(self) -> int:
        """Bytes really held; positions are among them, because the keys cannot be read without."""
        return super().nbytes + self.positions.nbytes + (0 if self.centre is None else self.centre.nbytes)

    def to(self, device: torch.device, dtype: torch.dtype) -> AnySlots:
        """The slots on a model's device; plain ones in its dtype where that takes no more bytes."""
        bias = None if self.bias is None else self.bias.to(device)
        centre = None if self.centre is None else self.centre.to(device)
        keys, values, runs = self.keys.to(device), self.values.to(device), self.runs.to(device)
        moved = CodedSlots(keys, values, self.positions.to(device), bias, self.lengths, runs, centre)
        return moved.plain(dtype) if dtype.itemsize <= keys.codes.itemsize else moved

    def turned(self, rope: Rope) -> CodedSlots:
        """Un-rotated slots as a cache holds them: turned each time that they are read."""
        return replace(self, rope=rope)

    def plain(self, dtype: torch.dtype) -> Slots:
        """The slots as tensors of `dtype`, with keys turned where a rotation is known: a temporary."""
        keys = self.keys.plain(torch.promote_types(dtype, torch.float32))
        if self.centre is not None:
            keys = keys + _over(self.centre.to(keys.dtype), self.runs)
        if self.rope is not None:
            keys = self.rope.rotate(keys, self.positions)
        return Slots(keys.to(dtype), self.values.plain(dtype), self.positions, self.bias, self.lengths)


def _over(centre: Tensor, runs: Tensor) -> Tensor:
    """`centre [G, P, D]` repeated for each slot of its run, `[N, D]`."""
    return centre.flatten(0, 1).repeat_interleave(runs.flatten(), dim=0)


AnySlots = Slots | CodedSlots
