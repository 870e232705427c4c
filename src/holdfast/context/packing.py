"""Ragged heads: picking KV pairs head by head and joining packed layers, without padding anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar, overload

import torch
from torch import Tensor

from holdfast.model.quantized_slots import AnySlots, QuantizedRows, QuantizedSlots
from holdfast.model.slots import Rows, Slots

Packed = TypeVar("Packed", Slots, QuantizedSlots)


def pack(keys: Tensor, values: Tensor, positions: Tensor, keep: Tensor | None = None) -> Slots:
    """Packs one layer's `keys, values [G, T, D]` at `positions [T]`, all of them or those where `keep
    [G, T]` is True.
    """
    G, T, D = keys.shape
    if keep is None:
        return Slots(keys.reshape(-1, D), values.reshape(G * T, values.shape[-1]), positions.repeat(G), None, (T,) * G)
    lengths = tuple(int(n) for n in keep.sum(1))
    return Slots(keys[keep], values[keep], positions.expand(G, T)[keep], None, lengths)


def join(parts: Sequence[Packed]) -> Packed:
    """Joins one layer's slots, all of one form, within each head; equal to attending over them in turn."""
    if len(parts) == 1:
        return parts[0]
    by_head = list(zip(*(list(part.heads()) for part in parts), strict=True))
    made = replace(
        parts[0],
        keys=_cat([head[0] for heads in by_head for head in heads]),
        values=_cat([head[1] for heads in by_head for head in heads]),
        positions=torch.cat([head[2] for heads in by_head for head in heads]),  # [N]
        bias=_join_bias([(head[2], head[3]) for heads in by_head for head in heads]),
        lengths=tuple(sum(len(head[2]) for head in heads) for heads in by_head),
    )
    if isinstance(made, QuantizedSlots):
        centres = [part.centre for part in parts if part.centre is not None]
        runs = torch.cat([part.runs for part in parts], dim=1)  # [G, P]
        made = replace(made, runs=runs, centre=torch.cat(centres, dim=1) if centres else None)
    return made


def _join_bias(rows: list[tuple[Tensor, Tensor | None]]) -> Tensor | None:
    if all(bias is None for _, bias in rows):
        return None
    return torch.cat([torch.zeros_like(positions) if bias is None else bias for positions, bias in rows])


def _cat(rows: list[Rows]) -> Rows:
    if isinstance(rows[0], Tensor):
        return torch.cat(rows)
    scales, heads = ([t for r in rows if (t := getattr(r, name)) is not None] for name in ("scales", "heads"))
    joined = (torch.cat(scales) if scales else None, rows[0].basis, torch.cat(heads) if heads else None)
    return QuantizedRows(torch.cat([r.codes for r in rows]), *joined)


@overload
def where(slots: Slots, mask: Tensor) -> Slots: ...
@overload
def where(slots: QuantizedSlots, mask: Tensor) -> QuantizedSlots: ...
def where(slots: AnySlots, mask: Tensor) -> AnySlots:
    """Returns the slots for which `mask [N]` is True."""
    kept: dict[str, Any] = {name: getattr(slots, name)[mask] for name in ("keys", "values", "positions")}
    kept["bias"] = None if slots.bias is None else slots.bias[mask]
    if isinstance(slots, QuantizedSlots):
        runs = _count_true(mask, slots.runs.flatten().tolist())
        kept["runs"] = torch.tensor(runs, device=slots.runs.device).view_as(slots.runs)
    return replace(slots, **kept, lengths=_count_true(mask, slots.lengths))


def _count_true(mask: Tensor, lengths: Sequence[int]) -> tuple[int, ...]:
    """Returns how many of each stretch of `lengths` are True."""
    return tuple(int(part.sum()) for part in torch.split(mask, list(lengths)))
