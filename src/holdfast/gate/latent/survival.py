"""What a compaction lost: the model says the span again over the compact memory and over the full one.

A token is lost where its log-probability falls by more than a threshold. Both sides are read in the same way, so a
memory that nobody changed loses nothing, whatever the threshold. One repeat over the full memory, one over the other.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast.gate.latent.fact_tokens import FactTokens

UNREADABLE = 1e3  # nats: the fall of a token for which a memory gives no number


@dataclass(frozen=True)
class Survival:
    """What became of every token of a span."""

    fall: Tensor
    """`[T]` nats: log-probability over the full memory minus that over the compact one."""
    index: Tensor
    """`[T]` int64, rising: where each token stands in the session, as `Located.tokens` counts."""
    threshold: float

    @property
    def lost(self) -> Tensor:
        """`[T]` bool"""
        return self.fall > self.threshold

    def nats(self, found: FactTokens) -> float:
        """How far the log-probability of an atom fell."""
        return float(self.fall[self.token_slice(found)].sum())

    def is_lost(self, found: FactTokens) -> bool:
        """Whether one of its tokens fell by more than the threshold, or all of them together did."""
        place = self.token_slice(found)
        return bool(self.lost[place].any()) or self.nats(found) > self.threshold

    def spans(self) -> list[tuple[int, int]]:
        """Runs of lost tokens, as `Located.tokens` counts them."""
        return find_runs(self.index[self.lost])

    def token_slice(self, found: FactTokens) -> slice:
        """Where an atom's tokens stand in the span."""
        return slice(*torch.searchsorted(self.index, torch.tensor(found.tokens)).tolist())


def measure_fall(full: Tensor, compact: Tensor) -> Tensor:
    """Nats by which log-probabilities `[T]` fell; a memory that gives no number (NaN) has lost the token."""
    return (full - compact).nan_to_num(nan=UNREADABLE, posinf=UNREADABLE, neginf=0.0)


def find_runs(index: Tensor) -> list[tuple[int, int]]:
    """Runs of consecutive numbers in rising `index [n]`, each as its first and the one after its last."""
    if not len(index):
        return []
    ends = (torch.diff(index) > 1).nonzero()[:, 0] + 1
    runs = torch.tensor_split(index, ends.tolist())
    return [(int(run[0]), int(run[-1]) + 1) for run in runs]
