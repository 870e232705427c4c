"""Making what is compact more compact: the least useful slots go, and nothing is read again.

Slots remember what they were worth when they were kept (`StateSegment.scores`), so a tighter budget is a choice among
them. For one span under one threshold the choice is nested: 8x tightened to 16x holds the bytes of 16x at once.
Scores of several spans are compared as they are; whoever compares them says that their method allows it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from holdfast.context.allocation import KINDS, apportion, best
from holdfast.context.packing import where
from holdfast.context.segments import Segment, SoftSegment, StateSegment
from holdfast.errors import BadInput, BadOption
from holdfast.progress import Progress, quiet, track


class Cell(NamedTuple):
    """The scored slots of one head of one layer of one segment."""

    segment: int
    layer: int
    head: int
    scores: Tensor
    """`[n]` float32"""


def tighten(
    segments: Sequence[Segment],
    pairs: int,
    kind: str = "global",
    *,
    apart: bool = False,
    progress: Progress = quiet,
) -> list[Segment]:
    """Returns the segments with the best `pairs` of their scored slots; verbatim tokens and sliding layers stay whole.

    With `kind` "global" one threshold runs over all segments, layers and heads; "layer" keeps each layer's part of the
    slots held now, every other kind each head's. `apart` keeps each segment's part too. Raises BadOption for more pairs
    than are held, BadInput for slots without scores.
    """
    if kind not in KINDS:
        raise BadOption(f"allocation must be one of {', '.join(KINDS)}, got {kind!r}")
    held = find_cells(segments)
    total = sum(len(c.scores) for c in held)
    if not 0 <= pairs <= total:
        raise BadOption(f"{total} slots are held, so that 0 to {total} can be kept, got {pairs}")
    if pairs == total:
        return list(segments)
    groups: dict[tuple[int, int, int], list[Cell]] = {}
    for cell in held:
        groups.setdefault(_group(cell, kind, apart), []).append(cell)
    counts = [sum(len(c.scores) for c in group) for group in groups.values()]
    masks: dict[tuple[int, int], list[Tensor]] = {}
    chosen: dict[tuple[int, int, int], Tensor] = {}
    quotas = list(zip(groups.values(), apportion(counts, pairs, max(counts)), strict=True))
    for group, quota in track(quotas, "tighten", progress):
        for c, mask in zip(group, best({n: c.scores for n, c in enumerate(group)}, quota).values(), strict=True):
            chosen[c[:3]] = mask
    for c in held:
        masks.setdefault((c.segment, c.layer), []).append(chosen[c[:3]])
    return [_select_slots(segment, at, masks) for at, segment in enumerate(segments)]


def find_cells(segments: Sequence[Segment]) -> list[Cell]:
    """Returns every head's scored slots, in the order of segments, layers and heads.

    Raises BadInput if something compact has no scores, or if nothing is compact.
    """
    if any(isinstance(s, SoftSegment) for s in segments):
        raise BadInput("virtual tokens have no scores to choose by; compact the session again at the higher ratio")
    states = [(at, s) for at, s in enumerate(segments) if isinstance(s, StateSegment)]
    if not states:
        raise BadInput("there is nothing to tighten: only verbatim tokens are held; compact the session again")
    if any(not s.scores for _, s in states):
        raise BadInput(
            "some slots do not say what they are worth (their method has no scores, or the file is an older one); "
            "compact the session again at the higher ratio"
        )
    return [
        Cell(at, index, head, part)
        for at, segment in states
        for index, (layer, scores) in enumerate(zip(segment.layers, segment.scores, strict=True))
        if len(scores)
        for head, part in enumerate(torch.split(scores, list(layer.lengths)))
    ]


def _group(cell: Cell, kind: str, apart: bool) -> tuple[int, int, int]:
    layer = -1 if kind == "global" else cell.layer
    head = -1 if kind in ("global", "layer") else cell.head
    return cell.segment if apart else -1, layer, head


def _select_slots(segment: Segment, at: int, masks: dict[tuple[int, int], list[Tensor]]) -> Segment:
    if not isinstance(segment, StateSegment):
        return segment
    whole = {layer: torch.cat(masks[at, layer]) for layer in range(len(segment.layers)) if (at, layer) in masks}
    layers = tuple(where(s, whole[n]) if n in whole else s for n, s in enumerate(segment.layers))
    scores = tuple(s[whole[n]] if n in whole else s for n, s in enumerate(segment.scores))
    return replace(segment, layers=layers, scores=scores)
