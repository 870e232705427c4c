"""Slots of a session over its tokens: the peak and the area, as counted live and as replayed from the log alone.

A point is (tokens said, slots held). Between two points the slots grow by one a token; where one goes they fall at one
place, so the curve is a sawtooth and its area a sum of trapezia, exactly.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

Point = tuple[int, float]


@dataclass(frozen=True)
class KVCurve:
    """A sawtooth."""

    points: tuple[Point, ...]

    @property
    def peak(self) -> float:
        """The most slots at any token."""
        return max((slots for _, slots in self.points), default=0.0)

    @property
    def area(self) -> float:
        """Slots times tokens."""
        return sum((b - a) * (x + y) / 2 for (a, x), (b, y) in pairwise(self.points))

    @property
    def full_area(self) -> float:
        """The area without any eviction."""
        tokens = self.points[-1][0] if self.points else 0
        return tokens * tokens / 2


def curve_of_log(events: Sequence[Mapping[str, Any]]) -> KVCurve:
    """Returns the curve by the slots that the session counted in its memory while it grew (`told` of each event)."""
    points: list[Point] = [(0, 0.0)]
    for event in events:
        told = event.get("told", {})
        if "slots" not in told or event["kind"] == "saved":
            continue
        if "curve" in told:
            points += [(int(x), float(y)) for x, y in told["curve"]]
            continue
        if "before" in told and told["tokens"] < points[-1][0]:
            continue  # an eviction inside the answer before it, whose curve has it
        if told["tokens"] == points[-1][0] or event["kind"] in ("turns", "memento"):
            points.append((int(told["tokens"]), float(told["slots"])))
        else:
            points = [*_until(points, told["tokens"]), (int(told["tokens"]), float(told["slots"]))]
    return KVCurve(tuple(_corners(points)))


def replay_curve(events: Sequence[Mapping[str, Any]]) -> KVCurve:
    """Returns the curve by arithmetic alone: a token of a block is a slot, until the block is dropped."""
    points: list[Point] = [(0, 0.0)]
    at, slots = 0, 0
    drops: dict[int, list[int]] = {}
    for event in events:
        for span in event.get("told", {}).get("dropped", ()):
            drops.setdefault(int(event["told"]["tokens"]), []).append(span[1] - span[0])
    for event in events:
        for count in _growth(event):
            for place in sorted(place for place in drops if at < place <= at + count):
                slots += place - at
                at, count = place, count - (place - at)  # noqa: PLW2901
                points.append((at, float(slots)))
                slots -= sum(drops[place])
                points.append((at, float(slots)))
            at, slots = at + count, slots + count
            points.append((at, float(slots)))
    return KVCurve(tuple(_corners(points)))


def curve_of_blocks(sizes: Iterable[tuple[int, int]]) -> KVCurve:
    """Returns the curve of blocks that each go at their memento's end, from the tokens of (block, memento)."""
    points: list[Point] = [(0, 0.0)]
    for block, memento in sizes:
        at, slots = points[-1]
        at, slots = at + block + memento, slots + block + memento
        points += [(at, slots), (at, slots - block)]
    return KVCurve(tuple(points))


def _growth(event: Mapping[str, Any]) -> Iterable[int]:
    if event["kind"] == "turns":
        yield sum(len(ids) for _, _, ids in event["blocks"])
    elif event["kind"] == "memento":
        yield len(event["ids"])


def _until(points: Sequence[Point], tokens: int) -> list[Point]:
    return [point for point in points if point[0] <= tokens]


def _corners(points: Sequence[Point]) -> list[Point]:
    """Returns the points where the curve turns."""
    kept: list[Point] = []
    for at, (x, y) in enumerate(points):
        if kept and kept[-1] == (x, y):
            continue
        if 0 < at < len(points) - 1:
            (x0, y0), (x2, y2) = kept[-1], points[at + 1]
            if x0 < x and y - y0 == x - x0 and y2 - y == x2 - x:
                continue
        kept.append((x, y))
    return kept
