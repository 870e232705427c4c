"""Measures the tokens that a compaction lost: the model says the span again over the compact and over the full memory.

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
    """The fall of every token of a span."""

    fall: Tensor
    """`[T]` nats: log-probability over the full memory minus that over the compact one."""
    index: Tensor
    """`[T]` int64, rising: the place of each token in the session, as `FactTokens.tokens` counts."""
    threshold: float

    @property
    def loss_mask(self) -> Tensor:
        """`[T]` bool"""
        return self.fall > self.threshold

    def nats(self, found: FactTokens) -> float:
        """Returns the nats by which the log-probability of a fact fell."""
        return float(self.fall[self.token_slice(found)].sum())

    def is_lost(self, found: FactTokens) -> bool:
        """Returns True if one token of a fact, or all of them together, fell by more than the threshold."""
        return bool(self.loss_mask[self.token_slice(found)].any()) or self.nats(found) > self.threshold

    def spans(self) -> list[tuple[int, int]]:
        """Returns the runs of lost tokens, as `FactTokens.tokens` counts them."""
        return find_runs(self.index[self.loss_mask])

    def token_slice(self, found: FactTokens) -> slice:
        """Returns the slice of the span that holds a fact's tokens."""
        return slice(*torch.searchsorted(self.index, torch.tensor(found.tokens)).tolist())


def measure_fall(full: Tensor, compact: Tensor) -> Tensor:
    """Returns the nats by which log-probabilities `[T]` fell; a memory that gives no number (NaN) lost the token."""
    return (full - compact).nan_to_num(nan=UNREADABLE, posinf=UNREADABLE, neginf=0.0)


def find_runs(index: Tensor) -> list[tuple[int, int]]:
    """Returns the runs of consecutive numbers in rising `index [n]`, each as its first and the one after its last."""
    if not len(index):
        return []
    ends = (torch.diff(index) > 1).nonzero()[:, 0] + 1
    runs = torch.tensor_split(index, ends.tolist())
    return [(int(run[0]), int(run[-1]) + 1) for run in runs]
