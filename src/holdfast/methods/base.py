"""The protocol of a latent method: it reads a span once, then compresses it to any budget."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, Self, runtime_checkable

import torch
from torch import Tensor

from holdfast.blocks.block import Block, Origin
from holdfast.context.budget import Budget
from holdfast.context.segments import Segment
from holdfast.engine.kv_context import KVContext
from holdfast.engine.local import LocalEngine
from holdfast.progress import Progress, quiet


def prefill_progress(progress: Progress) -> Callable[[int, int], None]:
    """Returns the callback of a prefill, which reports to `progress` as `read`."""
    return lambda done, total: progress("read", done, total, "")


@dataclass(frozen=True)
class Span:
    """The tokens to be compacted, whole blocks at consecutive positions."""

    blocks: tuple[Block, ...]
    start: int
    """Position of the first token."""
    later: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    """`[n]` ids of what the session said after the span, as far as it is known."""
    facts: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.bool))
    """`[T]` bool: tokens of literals that an agent cannot do without (`gate/latent/fact_tokens.py`); may be empty."""

    @property
    def ids(self) -> Tensor:
        """`[T]` int64"""
        return torch.tensor([i for block in self.blocks for i in block.ids], dtype=torch.int64)

    @property
    def positions(self) -> Tensor:
        """`[T]` float32"""
        return torch.arange(self.start, self.start + len(self), dtype=torch.float32)

    @property
    def origins(self) -> tuple[Origin, ...]:
        return tuple(block.origin for block in self.blocks)

    def __len__(self) -> int:
        return sum(map(len, self.blocks))


class LatentMethod(Protocol):
    """Compacts inside the model. Options are the fields of a frozen dataclass; its file holds nothing else.

    `study` does what does not depend on the budget, so that several ratios share it. `past` is the running,
    already compacted memory that stands before the span; neither call changes it.
    """

    @property
    def name(self) -> str: ...

    @property
    def by_turn(self) -> bool:
        """True if the seed recipe of this method compacts turn by turn, and not the whole span at once."""
        ...

    def study(self, span: Span, past: KVContext, engine: LocalEngine, progress: Progress = quiet) -> Any:
        """Reads the span once, and returns all that does not depend on the budget."""
        ...

    def compress(self, study: Any, budget: Budget, progress: Progress = quiet) -> tuple[Segment, ...]:
        """Returns segments that stand for the span and hold at most `budget`."""
        ...


@runtime_checkable
class RankedStudy(Protocol):
    """A study of a method that ranks KV pairs: the gate can raise the rank of what carries a lost token."""

    scores: dict[int, Tensor]

    def with_scores(self, scores: dict[int, Tensor]) -> Self:
        """Returns the study with other scores; `compress` takes it."""
        ...
