"""Segments a line of work into blocks at the best boundaries. Exact, though the objective is not additive.

    objective = mean score of the chosen boundaries - balance x coefficient of variation of the blocks' tokens

For a given number of blocks K and of tokens T it is `S / (K - 1) - balance * sqrt(K Q / T^2 - 1)`, with S the sum of
the chosen scores and Q the sum of the squared sizes: both additive. It is convex in (S, Q), so its maximum over the
attainable points lies on a vertex of their convex hull; it grows with S and falls with Q, so that vertex maximises
`S - mu Q` for some mu >= 0. Each such sum is a shortest path with K edges whose costs satisfy the Monge inequality:
the best last cut moves one way only, and a layer takes O(n log n). Supporting lines are added where they promise most,
until no corner of their envelope, where the convex objective is largest, is better than what is known.

What is known also bounds the variation of anything better, and so how far the k-th cut may stand from `k T / K`: ends
outside that band are left out, and numbers of blocks whose best K - 1 scores alone are too low are not tried.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from holdfast.errors import BadOption

Floats = np.ndarray[Any, np.dtype[np.float64]]
Ints = np.ndarray[Any, np.dtype[np.int64]]
_EQUAL = 1e-9  # of the objective: less is rounding
_DENSE = 10_000


@dataclass(frozen=True)
class Shape:
    """The wished shape of blocks. Raises BadOption for one that no blocks can have."""

    least: int = 200
    """Tokens of every block, at least."""
    typical: int = 2_000
    """Tokens of a block on average, at most: the mean score alone would choose few blocks, each behind one good cut."""
    fewest: int = 0
    """Blocks at least; 0 leaves it to `typical`."""
    most: int = 0
    """Blocks at most; 0 leaves it to `least`."""
    balance: float = 0.5
    """Weight of the coefficient of variation."""

    def __post_init__(self) -> None:
        if self.least < 1 or self.typical < self.least:
            raise BadOption(f"blocks need 1 <= least <= typical tokens, got {self.least} and {self.typical}")
        if self.fewest < 0 or self.most < 0 or (self.most and self.fewest > self.most):
            raise BadOption(f"blocks need 0 <= fewest <= most, got {self.fewest} and {self.most}; 0 sets no limit")
        if not 0 <= self.balance < math.inf:
            raise BadOption(f"balance must be at least 0, got {self.balance}")

    def range(self, tokens: int) -> tuple[int, int]:
        """Returns the fewest and the most blocks for so many tokens."""
        most = max(1, min(tokens // self.least, self.most or tokens))
        return min(max(1, self.fewest or math.ceil(tokens / self.typical)), most), most


def segment(tokens: Sequence[int], scores: Sequence[float], shape: Shape | None = None) -> list[tuple[int, int]]:
    """Returns the best blocks as (first, last) unit, both inclusive, in order.

    `tokens [n]` are the sizes of the units, `scores [n - 1]` those of the boundaries between them. Where the fewest
    blocks cannot be had, as many as can be are made; a whole of less than `least` tokens is one block.
    """
    if len(scores) != max(0, len(tokens) - 1) or any(size < 1 for size in tokens):
        raise BadOption(f"{len(tokens)} units of at least 1 token have one boundary less, got {len(scores)} scores")
    if not tokens:
        return []
    cuts = _Search(np.asarray(tokens, np.int64), np.asarray(scores, np.float64), shape or Shape()).run()
    edges = [0, *cuts, len(tokens)]
    return [(first, stop - 1) for first, stop in pairwise(edges)]


def objective(
    blocks: Sequence[tuple[int, int]], tokens: Sequence[int], scores: Sequence[float], balance: float
) -> float:
    """Returns what a segmentation is worth; one block is worth 0."""
    sizes = [sum(tokens[first : last + 1]) for first, last in blocks]
    mean = sum(scores[last] for _, last in blocks[:-1]) / max(1, len(blocks) - 1)
    return mean - balance * math.sqrt(max(0.0, len(sizes) * sum(x * x for x in sizes) / sum(sizes) ** 2 - 1))


@dataclass(frozen=True)
class _Point:
    """A segmentation that maximises `S - mu Q`: no other of as many blocks lies above that line."""

    mu: float
    sum: float
    squares: float
    cuts: tuple[int, ...]

    def line(self, squares: float) -> float:
        """Returns the largest S at a Q."""
        return self.sum + self.mu * (squares - self.squares)


class _Search:
    """One search. Sizes are shares of the whole, so T is 1."""

    def __init__(self, tokens: Ints, scores: Floats, shape: Shape) -> None:
        self.scores, self.shape, self.units = scores, shape, len(tokens)
        whole = np.concatenate(([0], np.cumsum(tokens)))
        self.tokens = int(whole[-1])
        self.ends: Floats = whole / whole[-1]
        """Tokens before each unit, `[n + 1]`."""
        self.latest: Ints = np.searchsorted(whole, whole - shape.least, side="right") - 1
        """The last place at which the block before an end may begin, `[n + 1]`; -1 where there is none."""
        self.gains: Floats = np.concatenate(([0.0], scores, [0.0]))
        self.best = -math.inf
        self.cuts: tuple[int, ...] = ()

    def run(self) -> tuple[int, ...]:
        """Returns the units before which the best segmentation is cut."""
        fewest, most = self._attainable(*self.shape.range(self.tokens))
        if fewest == 1:
            self.best = 0.0
        top = np.sort(self.scores)[::-1]
        means = np.cumsum(top) / np.arange(1, len(top) + 1)  # at place K - 2 those of K blocks, and they fall
        for blocks in range(max(2, fewest), most + 1):
            if means[blocks - 2] <= self.best + _EQUAL:
                break
            self._search(blocks, float(means[blocks - 2]))
        return self.cuts

    def _attainable(self, fewest: int, most: int) -> tuple[int, int]:
        """Returns the range of numbers of blocks that units of these sizes can form."""
        at, count = self.units, 0
        while at > 0 and (at := int(self.latest[at])) >= 0:
            count += 1
        top = max(1, min(most, count))
        return min(fewest, top), top

    def _search(self, blocks: int, top: float) -> None:
        """Looks for something better of so many blocks; `top` is the mean of as many best scores."""
        points: list[_Point] = []
        steep = 4.0 * self.tokens**2 * (1 + float(np.abs(self.scores).max()) * blocks)  # Q differs by 1 / T^2 at least
        mu: float | None = min(
            steep, blocks * (blocks - 1) * self.shape.balance / min(0.2, max(1e-6, self._spread(top)))
        )
        while mu is not None:
            spread = self._spread(top)
            point = self._maximize(blocks, mu, spread)
            if point is None:
                return
            worth = self._worth(blocks, point.sum, point.squares)
            if worth > self.best + _EQUAL:
                self.best, self.cuts = worth, point.cuts
            points = sorted([*points, point], key=lambda one: one.mu)
            mu = self._promise(blocks, points, steep, self._spread(top))

    def _spread(self, top: float) -> float:
        """Returns the coefficient of variation that anything better stays below, if its mean score is at most `top`."""
        return (
            min(float(self.units), (top - self.best) / self.shape.balance) if self.shape.balance else float(self.units)
        )

    def _worth(self, blocks: int, total: float, squares: float) -> float:
        return total / (blocks - 1) - self.shape.balance * math.sqrt(max(0.0, blocks * squares - 1))

    def _promise(self, blocks: int, points: Sequence[_Point], steep: float, spread: float) -> float | None:
        """Returns the slope at which something better may be; None if nothing can be."""
        least = points[-1].squares if points[-1].mu == steep else 1 / blocks
        promises = [(self._worth(blocks, points[-1].line(least), least), steep)]
        if points[0].mu > 0:
            most = (1 + spread**2) / blocks
            promises.append((self._worth(blocks, points[0].line(most), most), 0.0))
        for left, right in pairwise(points):
            if left.squares - right.squares > _EQUAL * right.squares:
                corner = (left.line(0) - right.line(0)) / (right.mu - left.mu)
                across = (left.sum - right.sum) / (left.squares - right.squares)
                promises.append((self._worth(blocks, left.line(corner), corner), across))
        worth, mu = max(promises)
        return mu if worth > self.best + _EQUAL and all(mu != point.mu for point in points) else None

    def _maximize(self, blocks: int, mu: float, spread: float) -> _Point | None:
        """Returns the segmentation into `blocks` with the largest `S - mu Q` among those whose sizes vary by at most
        `spread`, or by more; None if there is none.
        """
        rows, value, trace = np.zeros(1, np.int64), np.zeros(1), list[tuple[Ints, Ints]]()
        for block in range(1, blocks + 1):
            ends = self._band(block, blocks, spread)
            high = np.minimum(self.latest[ends], rows[-1])
            ends, high = ends[high >= rows[0]], high[high >= rows[0]]
            if not len(ends):
                return None
            cut = _best_cuts(value, self.ends[rows], self.ends[ends], high - rows[0], mu)
            value = value[cut] - mu * (self.ends[ends] - self.ends[rows][cut]) ** 2 + self.gains[ends]
            trace.append((ends, rows[cut]))
            rows = ends
        at, cuts = self.units, list[int]()
        for ends, before in reversed(trace):
            at = int(before[at - ends[0]])
            cuts.append(at)
        inner = cuts[-2::-1]
        sizes = np.diff(self.ends[[0, *inner, self.units]])
        return _Point(mu, float(self.gains[inner].sum()), float((sizes**2).sum()), tuple(inner))

    def _band(self, block: int, blocks: int, spread: float) -> Ints:
        """Returns the ends at which block number `block` of `blocks` may stop."""
        if block == blocks:
            return np.array([self.units])
        reach = spread * math.sqrt(block * (blocks - block)) / blocks + _EQUAL
        first, last = np.searchsorted(self.ends, (block / blocks - reach, block / blocks + reach))
        return np.arange(max(1, first), min(last, self.units))


def _best_cuts(value: Floats, begins: Floats, ends: Floats, high: Ints, mu: float) -> Ints:
    """Returns for each of `ends` the best of the places `begins` up to `high`, as an index.

    The best place never moves back from one end to the next (Monge), so every second end bounds those between.
    """
    if len(ends) * len(begins) <= _DENSE:  # all pairs at once are faster than a few at a time
        worth = value[None, :] - mu * (ends[:, None] - begins[None, :]) ** 2
        worth[np.arange(len(begins))[None, :] > high[:, None]] = -math.inf
        return np.asarray(worth.argmax(1), np.int64)
    best = np.zeros(len(ends), np.int64)
    step = 1 << (len(ends).bit_length() - 1)
    while step:
        own = np.arange(step - 1, len(ends), 2 * step)
        low, top = np.where(own >= step, best[own - step], 0), high[own]
        inside = own + step < len(ends)
        top[inside] = np.minimum(top[inside], best[own[inside] + step])
        counts = top - low + 1
        starts = np.cumsum(counts) - counts
        places = np.arange(int(counts.sum())) - np.repeat(starts - low, counts)
        worth = value[places] - mu * (np.repeat(ends[own], counts) - begins[places]) ** 2
        most = np.repeat(np.maximum.reduceat(worth, starts), counts)
        best[own] = np.minimum.reduceat(np.where(worth == most, places, len(begins)), starts)
        step //= 2
    return best
