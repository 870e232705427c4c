"""The search for the best segmentation: exact bounds on all numbers of blocks at once.

For a number of blocks K and of tokens T the objective is `S / (K - 1) - balance * sqrt(K Q / T^2 - 1)`, with S the sum
of the chosen scores and Q the sum of the squared sizes: both additive. It is convex in (S, Q), so its maximum over the
attainable points lies on a vertex of their convex hull; it grows with S and falls with Q, so that vertex maximises
`S - mu Q` for some mu >= 0.

Numbers of blocks share their work. `S - mu Q - nu K` has its maximum over all segmentations in O(n): the sizes enter
as squares, so that of two places to cut at the later one is better from some end on. Each such maximum is a plane that
no (K, S, Q) lies above; for each K the planes' lower envelope, at whose corners the convex objective is largest, bounds
what K blocks are worth. The K that promises most is looked at first, at the slope of its best corner, until no K
promises more than what is known. For one mu the maximum is concave in K (the costs satisfy the Monge inequality), so a
price nu leads to each K, and where several K have one price, paths are spliced (Aggarwal, Schieber and Tokuyama, 1994).
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

Floats = np.ndarray[Any, np.dtype[np.float64]]
Ints = np.ndarray[Any, np.dtype[np.int64]]
_EQUAL = 1e-9  # of the objective: less is rounding
_FLATTEST = 1e-10  # slopes below that tell no two segmentations apart: Q is at most 1


class _Plane(NamedTuple):
    """A bound on every segmentation: `S - mu Q - nu K` is at most `height`."""

    mu: float
    nu: float
    height: float


class _Corner(NamedTuple):
    """A corner of the planes' lower envelope for one K, and the slopes beside it."""

    squares: float
    sum: float
    flat: float
    steep: float


class _Path(NamedTuple):
    """A segmentation into K blocks."""

    blocks: int
    sum: float
    squares: float
    cuts: tuple[int, ...]


class Search:
    """One search. Sizes are shares of the whole, so that T is 1."""

    def __init__(self, tokens: Ints, scores: Floats, least: int, balance: float, bounds: tuple[int, int]) -> None:
        """Prepares a search over `tokens [n]` and `scores [n - 1]`; `bounds` are the fewest and the most blocks."""
        whole = np.concatenate(([0], np.cumsum(tokens)))
        self.balance, self.units, self.tokens = balance, len(tokens), int(whole[-1])
        self.ends: list[float] = (whole / whole[-1]).tolist()
        """Tokens before each unit, `[n + 1]`."""
        self.latest: list[int] = (np.searchsorted(whole, whole - least, side="right") - 1).tolist()
        """The last place at which the block before an end may begin, `[n + 1]`; -1 where there is none."""
        self.gains: list[float] = [0.0, *scores.tolist(), 0.0]
        self.tops: list[float] = [0.0, 0.0, *np.cumsum(np.sort(scores)[::-1]).tolist()]
        """The sum of the best scores that K blocks could have between them, by K."""
        self.planes: list[_Plane] = []
        self.paths: dict[int, dict[float, _Path]] = {}
        """The segmentations into K blocks with the largest `S - mu Q`, by K and mu."""
        self.fewest, self.most = self._attainable(*bounds)
        self.best = 0.0 if self.fewest == 1 else -math.inf
        self.cuts: tuple[int, ...] = ()
        self._premium = 0.0
        """The last price of a block that was found, less what a block saves in Q at even sizes."""

    def run(self) -> tuple[int, ...]:
        """Returns the units before which the best segmentation is cut."""
        heap = [(-self.tops[blocks] / (blocks - 1), blocks) for blocks in range(max(2, self.fewest), self.most + 1)]
        heapq.heapify(heap)
        while heap and -heap[0][0] > self.best + _EQUAL:
            _, blocks = heapq.heappop(heap)
            worth, corner = self._promise(blocks)
            mu = self._slope(blocks, corner)
            if worth <= self.best + _EQUAL or mu in self.paths.get(blocks, {}) or mu > self._steepest(blocks):
                continue
            if not heap or worth >= -heap[0][0]:
                self.paths.setdefault(blocks, {})[mu] = self._find(blocks, mu)
            heapq.heappush(heap, (-worth, blocks))
        return self.cuts

    def _attainable(self, fewest: int, most: int) -> tuple[int, int]:
        """Returns the range of numbers of blocks that units of these sizes can form."""
        at, count = self.units, 0
        while at > 0 and (at := self.latest[at]) >= 0:
            count += 1
        top = max(1, min(most, count))
        return min(fewest, top), top

    def _steepest(self, blocks: int) -> float:
        """Returns a slope from which on Q alone decides: two of them differ by at least 1 / T^2."""
        return 4.0 * self.tokens**2 * (1 + max(map(abs, self.gains)) * blocks)

    def _worth(self, blocks: int, total: float, squares: float) -> float:
        return total / (blocks - 1) - self.balance * math.sqrt(max(0.0, blocks * squares - 1))

    def _promise(self, blocks: int) -> tuple[float, _Corner]:
        """Returns what so many blocks are worth at most, and the corner at which they would be."""
        planes = np.array([(0.0, 0.0, self.tops[blocks]), *self.planes])  # [p, 3]
        corners = _corners(planes[:, 2] + planes[:, 1] * blocks, planes[:, 0], 1 / blocks)
        return max(((self._worth(blocks, one.sum, one.squares), one) for one in corners), key=lambda pair: pair[0])

    def _slope(self, blocks: int, corner: _Corner) -> float:
        """Returns the slope that lowers the envelope at a corner most."""
        own, even = self.paths.get(blocks, {}), self.balance * blocks * (blocks - 1)
        if corner.steep == math.inf:
            return 4 * corner.flat or max(_FLATTEST, even / 0.2)
        left, right = own.get(corner.steep), own.get(corner.flat)
        if left and right and left.squares < right.squares:
            return (right.sum - left.sum) / (right.squares - left.squares)
        if corner.flat:
            return math.sqrt(corner.flat * corner.steep)
        tangent = even / (2 * math.sqrt(max(1e-12, blocks * corner.squares - 1)))
        return max(_FLATTEST, min(max(tangent, corner.steep / 16), corner.steep / 1.5))

    def _find(self, blocks: int, mu: float) -> _Path:
        """Returns the segmentation into `blocks` with the largest `S - mu Q`, by the price of a block that gives it."""
        nu, wide = self._premium + mu / blocks**2, 1.0
        fewer: _Path | None = None
        more: _Path | None = None
        while True:
            path = self._maximize(mu, nu)
            if path.blocks == blocks:
                self._premium = nu - mu / blocks**2
                return path
            if fewer and more and not fewer.blocks < path.blocks < more.blocks:
                return self._splice(fewer, more, blocks)
            if path.blocks < blocks:
                fewer = path
            else:
                more = path
            if fewer and more:  # the price at which both are worth the same: what is better lies between them
                gain = more.sum - fewer.sum - mu * (more.squares - fewer.squares)
                nu = gain / (more.blocks - fewer.blocks)
            else:
                step = mu * abs(1 / blocks**2 - 1 / path.blocks**2) + 1e-6
                nu, wide = nu + math.copysign(wide * step, path.blocks - blocks), 2 * wide

    def _maximize(self, mu: float, nu: float) -> _Path:
        """Returns the segmentation with the largest `S - mu Q - nu K`, of any K; it becomes a plane."""
        ends, gains, units = self.ends, self.gains, self.units
        value, before = [-math.inf] * (units + 1), [0] * (units + 1)
        value[0] = 0.0
        places: list[int] = []  # where the last block may begin; each is best from its place in `since` on
        since: list[float] = []
        head = new = 0
        for end in range(1, units + 1):
            while new <= self.latest[end]:
                if value[new] > -math.inf:
                    start = -math.inf
                    while places:
                        old = places[-1]
                        gap = ends[new] - ends[old]
                        start = (ends[new] + ends[old]) / 2 + (value[old] - value[new]) / (2 * mu * gap)
                        if start > since[-1]:
                            break
                        places.pop()
                        since.pop()
                        start = -math.inf
                    places.append(new)
                    since.append(start)
                    head = min(head, len(places) - 1)
                new += 1
            if places:
                while head + 1 < len(places) and since[head + 1] <= ends[end]:
                    head += 1
                at = places[head]
                value[end] = value[at] - mu * (ends[end] - ends[at]) ** 2 + gains[end] - nu
                before[end] = at
        self.planes.append(_Plane(mu, nu, value[-1]))
        return self._path(_trace(before))

    def _splice(self, fewer: _Path, more: _Path, blocks: int) -> _Path:
        """Returns a segmentation into `blocks` of the start of one and the rest of another that has the same value.

        Where a block of `more` lies within one of `fewer`, going over from one to the other loses nothing (Monge).
        """
        first, second = ((0, *path.cuts, self.units) for path in (fewer, more))
        shift = more.blocks + 1 - blocks
        at = next(at for at in range(fewer.blocks) if second[at + shift] <= first[at + 1])
        return self._path((*first[1 : at + 1], *second[at + shift : -1]))

    def _path(self, cuts: tuple[int, ...]) -> _Path:
        """Returns the segmentation that is cut there; remembers it if it is the best."""
        edges = [0.0, *(self.ends[cut] for cut in cuts), 1.0]
        squares = math.fsum((stop - start) ** 2 for start, stop in pairwise(edges))
        path = _Path(len(cuts) + 1, math.fsum(self.gains[cut] for cut in cuts), squares, cuts)
        if cuts and self.fewest <= path.blocks <= self.most:
            worth = self._worth(path.blocks, path.sum, squares)
            if worth > self.best + _EQUAL:
                self.best, self.cuts = worth, cuts
        return path


def _trace(before: Sequence[int]) -> tuple[int, ...]:
    """Returns the cuts of the path whose every end has the start of its block in `before`."""
    at, cuts = before[-1], list[int]()
    while at:
        cuts.append(at)
        at = before[at]
    return tuple(reversed(cuts))


def _corners(heights: Floats, slopes: Floats, left: float) -> Iterator[_Corner]:
    """Yields the corners of the lower envelope of the lines `heights + slopes * Q` from `left` to 1, with both ends."""
    at = int((heights + slopes * left).argmin())
    yield _Corner(left, float(heights[at] + slopes[at] * left), float(slopes[at]), math.inf)
    while slopes[at]:
        flatter = slopes < slopes[at]  # the line of slope 0 is one
        across = np.full(len(slopes), math.inf)
        across[flatter] = (heights[flatter] - heights[at]) / (slopes[at] - slopes[flatter])
        following = int(across.argmin())
        squares = float(across[following])
        if squares >= 1:
            yield _Corner(1.0, float(heights[at] + slopes[at]), 0.0, float(slopes[at]))
            return
        yield _Corner(squares, float(heights[at] + slopes[at] * squares), float(slopes[following]), float(slopes[at]))
        at = following
