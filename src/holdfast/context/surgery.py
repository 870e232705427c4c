"""Between model states and contexts: which KV pairs of a span stay, and how a stored segment is rotated for use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from holdfast.blocks.block import Origin
from holdfast.context.packing import pack
from holdfast.context.segments import Segment, StateSegment
from holdfast.model.family import Family
from holdfast.model.quantized_slots import AnySlots, Form, encode, quantize
from holdfast.model.slots import Slots
from holdfast.model.state_bases import StateBases
from holdfast.model.states import States


def keep_pairs(
    states: States,
    chosen: Sequence[Tensor | None],
    origins: tuple[Origin, ...] = (),
    scores: Mapping[int, Tensor] | None = None,
) -> StateSegment:
    """Keeps the KV pairs where `chosen[layer] [G, T]` is True; None keeps a whole layer (sliding layers).

    With `scores[layer] [G, T]` each slot remembers its own, so that the segment can be compacted further.
    """
    layers: list[Slots] = []
    kept: list[Tensor] = []
    for keys, values, mask in zip(states.keys, states.values, chosen, strict=True):
        positions = states.positions[-keys.shape[1] :]
        layers.append(pack(keys, values, positions, mask))
        kept.append(positions.new_empty(0) if mask is None or not scores else scores[len(kept)][mask])
    return StateSegment(tuple(layers), origins, tuple(kept) if scores else ())


def rotate_segment(segment: StateSegment, family: Family) -> tuple[AnySlots, ...]:
    """Returns the segment's slots with keys rotated to their positions, ready for a cache."""
    return tuple(s.rotate(layer.rope) for layer, s in zip(family.layers, segment.layers, strict=True))


def quantize_segment(segment: StateSegment, form: Form) -> StateSegment:
    """Quantizes plain states to one of `quantized_slots.CODES`; leaves those that are quantized already."""
    return replace(segment, layers=tuple(quantize(s, form) if isinstance(s, Slots) else s for s in segment.layers))


def encode_segment(segment: StateSegment, bases: StateBases, step: float) -> StateSegment:
    """Encodes plain states in a model's bases; leaves those that are quantized already.

    Scores are rounded to bfloat16, as the file of a coded segment holds them.
    """
    layers = [
        encode(slots, bases.layers[n], step) if isinstance(slots, Slots) else slots
        for n, slots in enumerate(segment.layers)
    ]
    scores = tuple(score.bfloat16().float() for score in segment.scores)
    return replace(segment, layers=tuple(layers), scores=scores)


def shift_segment(segment: Segment, by: float) -> Segment:
    """Returns the segment `by` positions later. Un-rotated keys need no arithmetic: only their positions change."""
    if isinstance(segment, StateSegment):
        return replace(segment, layers=tuple(replace(s, positions=s.positions + by) for s in segment.layers))
    return replace(segment, positions=segment.positions + by)
