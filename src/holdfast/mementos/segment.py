"""Segments a line of work into blocks at the best boundaries. Exact, though the objective is not additive.

    objective = mean score of the chosen boundaries - balance x coefficient of variation of the blocks' tokens

`segment_search.py` says why the result is the best there is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from holdfast.errors import BadOption
from holdfast.mementos.segment_search import Search


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
    shape = shape or Shape()
    bounds = shape.range(sum(tokens))
    search = Search(np.asarray(tokens, np.int64), np.asarray(scores, np.float64), shape.least, shape.balance, bounds)
    edges = [0, *search.run(), len(tokens)]
    return [(first, stop - 1) for first, stop in pairwise(edges)]


def objective(
    blocks: Sequence[tuple[int, int]], tokens: Sequence[int], scores: Sequence[float], balance: float
) -> float:
    """Returns what a segmentation is worth; one block is worth 0."""
    sizes = [sum(tokens[first : last + 1]) for first, last in blocks]
    mean = sum(scores[last] for _, last in blocks[:-1]) / max(1, len(blocks) - 1)
    return mean - balance * math.sqrt(max(0.0, len(sizes) * sum(x * x for x in sizes) / sum(sizes) ** 2 - 1))
