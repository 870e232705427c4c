"""Ragged heads: picking KV pairs head by head and joining packed layers, without padding anywhere."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from holdfast.model.attention import Slots


def pack(keys: Tensor, values: Tensor, positions: Tensor, keep: Tensor | None = None) -> Slots:
    """Pack one layer's `keys, values [G, T, D]` at `positions [T]`, all of them or where `keep [G, T]` is True."""
    G, T, D = keys.shape
    if keep is None:
        return Slots(keys.reshape(-1, D), values.reshape(G * T, values.shape[-1]), positions.repeat(G), None, (T,) * G)
    lengths = tuple(int(n) for n in keep.sum(1))
    return Slots(keys[keep], values[keep], positions.expand(G, T)[keep], None, lengths)


def join(parts: Sequence[Slots]) -> Slots:
    """One layer's slots one after another within each head; equal to attending over the parts in turn."""
    if len(parts) == 1:
        return parts[0]
    by_head = list(zip(*(list(part.heads()) for part in parts), strict=True))
    return Slots(
        keys=torch.cat([head[0] for heads in by_head for head in heads]),
        values=torch.cat([head[1] for heads in by_head for head in heads]),
        positions=torch.cat([head[2] for heads in by_head for head in heads]),
        bias=_join_bias(parts, by_head),
        lengths=tuple(sum(head[0].shape[0] for head in heads) for heads in by_head),
    )


def _join_bias(
    parts: Sequence[Slots], by_head: list[tuple[tuple[Tensor, Tensor, Tensor, Tensor | None], ...]]
) -> Tensor | None:
    if all(part.bias is None for part in parts):
        return None
    rows = [torch.zeros_like(head[2]) if head[3] is None else head[3] for heads in by_head for head in heads]
    return torch.cat(rows)


def where(slots: Slots, mask: Tensor) -> Slots:
    """The slots for which `mask [N]` is True."""
    lengths = tuple(int(part.sum()) for part in torch.split(mask, list(slots.lengths)))
    bias = None if slots.bias is None else slots.bias[mask]
    return Slots(slots.keys[mask], slots.values[mask], slots.positions[mask], bias, lengths)
