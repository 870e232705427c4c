"""Compresses positions: a compacted stretch takes fewer positions than the tokens that it stands for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from holdfast.context.segments import Segment, SoftSegment, StateSegment
from holdfast.context.surgery import shift_segment
from holdfast.errors import TooLarge

LEAST = 1 / 64
"""Of its own length, to which a stretch is drawn together at most."""


@dataclass(frozen=True)
class Stretch:
    """Neighbouring segments of one fate."""

    segments: tuple[int, ...]
    compacted: bool
    positions: tuple[float, float]
    tokens: tuple[int, int]


def is_compacted(segment: Segment) -> bool:
    """Returns True if a segment holds less than all of what it stands for."""
    if isinstance(segment, StateSegment):
        n = _tokens([segment])
        return bool(segment.scores) or any(length != n[1] - n[0] for s in segment.layers for length in s.lengths)
    return isinstance(segment, SoftSegment)


def find_stretches(segments: Sequence[Segment], end: float) -> list[Stretch]:
    """Returns the segments, in order, whose last position is before `end`, as stretches."""
    groups: list[list[int]] = []
    for at, segment in enumerate(segments):
        if groups and is_compacted(segments[groups[-1][-1]]) == is_compacted(segment):
            groups[-1].append(at)
        else:
            groups.append([at])
    if not groups:
        return []
    starts = [0.0 if n == 0 else _first_position(segments, groups, n) for n in range(len(groups))]
    return [
        Stretch(tuple(g), is_compacted(segments[g[0]]), (a, b), _tokens([segments[at] for at in g]))
        for g, a, b in zip(groups, starts, [*starts[1:], end], strict=True)
    ]


def find_slack(segments: Sequence[Segment], end: float) -> int:
    """Returns by how many positions `compress_positions` can shorten the segments at most."""
    return int(_room(find_stretches(segments, end)) * (1 - LEAST))


def compress_positions(segments: Sequence[Segment], end: float, by: int) -> tuple[Segment, ...]:
    """Returns the segments with compacted stretches shorter by `by` positions in all, in proportion to their length.

    Raises TooLarge if they would be shorter than `LEAST` of what they are.
    """
    found = find_stretches(segments, end)
    room = _room(found)
    if by > room * (1 - LEAST):
        raise TooLarge(
            f"the session is {by} positions too long for the model, and what is compacted takes only {room:.0f}; "
            "compact more of it (pin less, keep fewer recent exchanges), or use a model with a longer context"
        )
    scale, out, back = 1 - by / room, list(segments), 0.0
    for stretch in found:
        first, last = stretch.positions
        for at in stretch.segments:
            segment = out[at]
            out[at] = (
                _compress_segment(segment, first, scale, back) if stretch.compacted else shift_segment(segment, -back)
            )
        if stretch.compacted:
            back += (last - first) * (1 - scale)
    return tuple(out)


def slots_of_tokens(segments: Sequence[Segment], end: float, length: int) -> Tensor:
    """Returns the slots that a layer and head holds on average for each token of a session, `[length]` float32."""
    out = torch.zeros(length)
    for stretch in find_stretches(segments, end):
        (a, b), (first, last) = stretch.positions, stretch.tokens
        for at in stretch.segments:
            segment = segments[at]
            if not isinstance(segment, StateSegment):
                out[first:last] = 1
                continue
            whole = sum(origin.tokens[1] - origin.tokens[0] for origin in segment.origins)
            if all(set(layer.lengths) == {whole} for layer in segment.layers):  # verbatim: what stands around it went
                for origin in segment.origins:
                    out[slice(*origin.tokens)] = 1
                continue
            heads = sum(len(layer.lengths) for layer in segment.layers)
            positions = torch.cat([layer.positions for layer in segment.layers])
            token = first + (positions - a) * ((last - first) / max(b - a, 1e-9))
            index = token.round().long().clamp(first, last - 1)
            out.index_add_(0, index, torch.full((len(index),), 1 / heads))
    return out


def _room(found: Sequence[Stretch]) -> float:
    return sum(s.positions[1] - s.positions[0] for s in found if s.compacted)


def _first_position(segments: Sequence[Segment], groups: list[list[int]], n: int) -> float:
    """Returns the first position of a group: that of its first verbatim token, or one behind the last before it."""
    first = segments[groups[n][0]]
    if not is_compacted(first):
        return _lowest(first)
    return max(segments[at].last_position for at in groups[n - 1]) + 1


def _lowest(segment: Segment) -> float:
    if isinstance(segment, StateSegment):
        return min(float(s.positions.min()) for s in segment.layers if s.positions.numel())
    return float(segment.positions.min())


def _tokens(segments: Sequence[Segment]) -> tuple[int, int]:
    spans = [o.tokens for s in segments for o in s.origins]
    return min(a for a, _ in spans), max(b for _, b in spans)


def _compress_segment(segment: Segment, first: float, scale: float, back: float) -> Segment:
    def there(positions: Tensor) -> Tensor:
        return first + (positions - first) * scale - back

    if isinstance(segment, StateSegment):
        return replace(segment, layers=tuple(replace(s, positions=there(s.positions)) for s in segment.layers))
    return replace(segment, positions=there(segment.positions))
