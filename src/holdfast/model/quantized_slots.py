"""Slots in fewer bits: their forms (bfloat16, int8, int4, coded), the codes of each, and how they become numbers again.

Quantized keys stay un-rotated, in a cache too, for two reasons. Un-rotated keys of a head share a strong mean, and
without it they need a third of the range; and rounding them again behind the rotation would add two fifths to their
error. `plain` rotates them; it makes a temporary for one layer at a time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor

from holdfast.model.rope import Rope
from holdfast.model.slots import PackedSlots, Slots
from holdfast.model.state_bases import RowBasis

Form = Literal["model", "bfloat16", "int8", "int4", "coded"]
"""The forms of slots: as the model computes them, or quantized."""
FORMS: tuple[Form, ...] = get_args(Form)
CODED: Form = "coded"
"""Codes of eight bits (sixteen where they must) in a calibrated basis; a file holds them entropy-coded."""
CODES: dict[Form, torch.dtype] = {"bfloat16": torch.bfloat16, "int8": torch.int8, "int4": torch.uint8}
GROUP = 32  # numbers that share a scale; all of a row where this does not divide it
_LOWEST: dict[Form, int] = {"int8": -128, "int4": -8}


@dataclass(frozen=True)
class QuantizedRows:
    """Rows `[N, D]` in fewer bits. A row of 64 numbers takes 128, 68 or 36 bytes."""

    codes: Tensor
    """`[N, D]` bfloat16 or int8, or `[N, D / 2]` uint8: two codes of four bits, the first half of the row in the low
    ones, 8 added to each."""
    scales: Tensor | None
    """`[N, D / 32]` bfloat16, what codes are multiplied by; None where the codes are the numbers. `[N, 1]` float32
    where they are coded in a basis: the step."""
    basis: RowBasis | None = None
    """The basis of the coded numbers; None where they are the row's own."""
    heads: Tensor | None = None
    """`[N]` uint8: the head of each row, where there is a basis."""

    @property
    def form(self) -> Form:
        if self.basis is not None:
            return CODED
        return next(form for form, dtype in CODES.items() if dtype == self.codes.dtype)

    @property
    def nbytes(self) -> int:
        return sum(t.nbytes for t in (self.codes, self.scales, self.heads) if t is not None)

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, rows: slice | Tensor) -> QuantizedRows:
        scales, heads = (None if t is None else t[rows] for t in (self.scales, self.heads))
        return QuantizedRows(self.codes[rows], scales, self.basis, heads)

    def to(self, device: torch.device) -> QuantizedRows:
        scales, heads = (None if t is None else t.to(device) for t in (self.scales, self.heads))
        return QuantizedRows(self.codes.to(device), scales, self.basis, heads)

    def plain(self, dtype: torch.dtype) -> Tensor:
        """Returns the rows as numbers, `[N, D]`."""
        if self.scales is None:
            return self.codes.to(dtype)
        if self.basis is not None and self.heads is not None:
            return self.basis.decode(self.codes.float() * self.scales, self.heads).to(dtype)
        wide = torch.promote_types(dtype, torch.float32)
        codes = self.codes
        if codes.dtype == torch.uint8:
            codes = torch.cat((codes & 15, codes >> 4), dim=1).to(torch.int8) - 8
        N, D = codes.shape
        groups = self.scales.shape[1]
        return (codes.view(N, groups, D // groups).to(wide) * self.scales[..., None].to(wide)).view(N, D).to(dtype)


def quantize_rows(rows: Tensor, form: Form) -> QuantizedRows:
    """Rounds `rows [N, D]` to one of `CODES`.

    A group's number of the largest size gets the lowest code, so that none of the 16 or 256 codes is unused (as in
    GGUF's Q4_0, https://github.com/ggml-org/ggml); codes are rounded against the scale as it is held.
    """
    if form not in _LOWEST:
        return QuantizedRows(rows.to(CODES[form]), None)
    (N, D), low = rows.shape, _LOWEST[form]
    groups = rows.float().reshape(N, D // scale_group(D), scale_group(D))
    extreme = groups.gather(2, groups.abs().argmax(2, keepdim=True))
    scales = (extreme / low).to(torch.bfloat16)
    steps = scales.float().masked_fill(scales == 0, 1.0)
    codes = (groups / steps).round().clamp(low, -low - 1).reshape(N, D)
    if form == "int4":
        codes = codes + 8
        return QuantizedRows((codes[:, : D // 2] + 16 * codes[:, D // 2 :]).to(torch.uint8), scales[..., 0])
    return QuantizedRows(codes.to(torch.int8), scales[..., 0])


def scale_group(D: int) -> int:
    """Returns the count of numbers of a row of `D` that share a scale."""
    return GROUP if D % GROUP == 0 else D


@dataclass(frozen=True)
class QuantizedSlots(PackedSlots[QuantizedRows]):
    """Slots in fewer bits; keys are un-rotated everywhere."""

    runs: Tensor
    """`[G, P]` int64: how many of a head's slots, one after another, came with each of P segments; 1 in a segment."""
    centre: Tensor | None
    """`[G, P, D]` bfloat16: the mean un-rotated key of each run, of which `keys` are the rest; None is zero."""
    rope: Rope | None = None
    """The rotation of the keys in a cache; None in a segment."""

    @property
    def form(self) -> Form:
        return self.keys.form

    @property
    def nbytes(self) -> int:
        """Bytes in memory; positions are among them, because the keys cannot be read without."""
        return super().nbytes + self.positions.nbytes + (0 if self.centre is None else self.centre.nbytes)

    def nbytes_at(self, itemsize: int) -> int:
        """Returns the bytes of the codes, which take no part in what a plain number takes."""
        return self.nbytes

    def to(self, device: torch.device, dtype: torch.dtype) -> AnySlots:
        """Returns the slots on a model's device; plain ones in its dtype where that takes no more bytes."""
        bias = None if self.bias is None else self.bias.to(device)
        centre = None if self.centre is None else self.centre.to(device)
        keys, values, runs = self.keys.to(device), self.values.to(device), self.runs.to(device)
        moved = QuantizedSlots(keys, values, self.positions.to(device), bias, self.lengths, runs, centre)
        return moved.plain(dtype) if dtype.itemsize <= keys.codes.itemsize else moved

    def rotate(self, rope: Rope) -> QuantizedSlots:
        """Remembers the rotation, which `plain` then applies each time that the slots are read."""
        return replace(self, rope=rope)

    def plain(self, dtype: torch.dtype) -> Slots:
        """Returns the slots as tensors of `dtype`, with keys rotated if a rotation is known: a temporary."""
        keys = self.keys.plain(torch.promote_types(dtype, torch.float32))
        if self.centre is not None:
            keys = keys + _repeat_centres(self.centre.to(keys.dtype), self.runs)
        if self.rope is not None:
            keys = self.rope.rotate(keys, self.positions)
        return Slots(keys.to(dtype), self.values.plain(dtype), self.positions, self.bias, self.lengths)


def quantize(slots: Slots, form: Form) -> QuantizedSlots:
    """Returns plain slots in one of the forms of `CODES`; their keys must be un-rotated."""
    runs = torch.tensor(slots.lengths, device=slots.keys.device)[:, None]  # [G, 1]
    keys, centre = slots.keys, None
    if form in _LOWEST:
        means = [head[0].float().sum(0) / max(1, len(head[0])) for head in slots.heads()]
        centre = torch.stack(means)[:, None].to(torch.bfloat16)  # [G, 1, D]
        keys = keys.float() - _repeat_centres(centre.float(), runs)  # [N, D]
    k, v = quantize_rows(keys, form), quantize_rows(slots.values, form)
    return QuantizedSlots(k, v, slots.positions, slots.bias, slots.lengths, runs, centre)


def encode(slots: Slots, bases: tuple[RowBasis, RowBasis], step: float) -> QuantizedSlots:
    """Returns plain slots, their keys un-rotated, as codes in the bases of their layer's keys and values.

    `step` is how coarse they are: 1 is the finest, and every doubling takes about one bit a number.
    """
    lengths = torch.tensor(slots.lengths, device=slots.keys.device)
    heads = torch.arange(len(lengths), device=lengths.device, dtype=torch.uint8).repeat_interleave(lengths)
    scales = torch.full((len(heads), 1), step, device=lengths.device)
    keys, values = (
        QuantizedRows(basis.encode(rows, slots.lengths, step), scales, basis, heads)
        for basis, rows in zip(bases, (slots.keys, slots.values), strict=True)
    )
    return QuantizedSlots(keys, values, slots.positions, slots.bias, slots.lengths, lengths[:, None], None)


def _repeat_centres(centre: Tensor, runs: Tensor) -> Tensor:
    """Repeats `centre [G, P, D]` for each slot of its run, `[N, D]`."""
    return centre.flatten(0, 1).repeat_interleave(runs.flatten(), dim=0)


AnySlots = Slots | QuantizedSlots
