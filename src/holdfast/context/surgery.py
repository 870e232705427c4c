"""Between model states and contexts: which KV pairs of a span stay, and how a stored segment is rotated for use."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from holdfast.blocks.block import Origin
from holdfast.context.packing import pack
from holdfast.context.segments import StateSegment
from holdfast.model.attention import Slots
from holdfast.model.family import Family
from holdfast.model.states import States


def keep(states: States, chosen: Sequence[Tensor | None], origins: tuple[Origin, ...] = ()) -> StateSegment:
    """The KV pairs where `chosen[layer] [G, T]` is True; None keeps a whole layer (sliding layers)."""
    layers = []
    for keys, values, mask in zip(states.keys, states.values, chosen, strict=True):
        positions = states.positions[-keys.shape[1] :]
        layers.append(pack(keys, values, positions, mask))
    return StateSegment(tuple(layers), origins)


def best(scores: dict[int, Tensor], pairs: int) -> dict[int, Tensor]:
    """Masks of the `pairs` highest of `scores[layer] [G, T]` under one threshold over all layers and heads.

    Exactly `pairs` are chosen; ties go to the lower layer, head and position, so that a run repeats.
    """
    flat = torch.cat([s.reshape(-1) for s in scores.values()])
    order = flat.argsort(descending=True, stable=True)[:pairs]
    mask = torch.zeros_like(flat, dtype=torch.bool)
    mask[order] = True
    parts = torch.split(mask, [s.numel() for s in scores.values()])
    return {layer: part.view_as(s) for (layer, s), part in zip(scores.items(), parts, strict=True)}


def best_per_head(scores: dict[int, Tensor], slots: int) -> dict[int, Tensor]:
    """Masks of the `slots` highest of every single head."""
    masks = {}
    for layer, s in scores.items():
        order = s.argsort(dim=1, descending=True, stable=True)[:, :slots]
        masks[layer] = torch.zeros_like(s, dtype=torch.bool).scatter_(1, order, True)
    return masks


def rotate(segment: StateSegment, family: Family) -> tuple[Slots, ...]:
    """The segment's slots with keys turned to their positions, ready for a cache."""
    return tuple(
        Slots(layer.rope.rotate(s.keys, s.positions), s.values, s.positions, s.bias, s.lengths)
        for layer, s in zip(family.layers, segment.layers, strict=True)
    )


def moved(segment: StateSegment, by: float) -> StateSegment:
    """The same states `by` positions later. Un-rotated keys need no arithmetic: only their positions change."""
    layers = tuple(Slots(s.keys, s.values, s.positions + by, s.bias, s.lengths) for s in segment.layers)
    return StateSegment(layers, segment.origins)
