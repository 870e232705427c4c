"""Old and new: one method for the older part of a span, another for the end that still grows.

The seed's proposal: soft tokens for what is long done, eviction for what is recent. Either part may be any method.
Cost: both studies, and one more prefill of the old part. Serves every family.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import torch

from holdfast.blocks.block import Block
from holdfast.context.budget import Budget
from holdfast.context.segments import Segment
from holdfast.engine.kv_context import KVContext
from holdfast.engine.local import LocalEngine
from holdfast.errors import BadOption
from holdfast.methods.base import Span, prefill_progress
from holdfast.methods.inner_methods import build_inner
from holdfast.progress import Progress, quiet


class Study(NamedTuple):
    """The study of each part; None if a part is empty."""

    span: Span
    old: Any
    new: Any


@dataclass(frozen=True)
class SplitByAge:
    """Splits a span in time."""

    old: str = "pool"
    """The method of the older part."""
    new: str = "informed"
    """The method of the newer part, which is read after the whole old part."""
    at: float = 0.5
    """Start of the newer part, as a share of the span."""
    share: float = 0.5
    """Part of the budget that the old part has."""

    name: ClassVar[str] = "split_by_age"
    by_turn: ClassVar[bool] = False

    def __post_init__(self) -> None:
        build_inner(self.name, "old", self.old)
        build_inner(self.name, "new", self.new)
        if not (0 < self.at < 1 and 0 < self.share < 1):
            raise BadOption(f"{self.name}: at and share must be between 0 and 1, got {self.at} and {self.share}")

    def study(self, span: Span, past: KVContext, engine: LocalEngine, progress: Progress = quiet) -> Study:
        new = build_inner(self.name, "new", self.new)
        cut = math.floor(self.at * len(span))
        if not cut:
            return Study(span, None, new.study(span, past, engine, progress))
        early, late = split_span(span, cut)
        old = build_inner(self.name, "old", self.old).study(early, past, engine, progress)
        with torch.no_grad():
            between, _ = engine.capture(past, early.ids, early.positions, prefill_progress(progress))
        return Study(span, old, new.study(late, between, engine, progress))

    def compress(self, study: Study, budget: Budget, progress: Progress = quiet) -> tuple[Segment, ...]:
        T, cut = len(study.span), math.floor(self.at * len(study.span))
        slots = min(cut, max(math.floor(self.share * budget.slots), budget.slots - (T - cut)))
        new = build_inner(self.name, "new", self.new)
        early: tuple[Segment, ...] = ()
        if study.old is not None and slots:
            early = build_inner(self.name, "old", self.old).compress(study.old, Budget(slots), progress)
        late = new.compress(study.new, Budget(budget.slots - slots), progress)
        return (*early, *late)


def split_span(span: Span, cut: int) -> tuple[Span, Span]:
    """Splits a span behind `cut` tokens. A block that is cut stands on both sides, each with its own tokens."""
    early = tuple(_clip_blocks(span.blocks, 0, cut))
    late = tuple(_clip_blocks(span.blocks, cut, len(span)))
    return (
        Span(early, span.start, span.later, span.facts[:cut]),
        Span(late, span.start + cut, span.later, span.facts[cut:]),
    )


def _clip_blocks(blocks: tuple[Block, ...], start: int, stop: int) -> Iterator[Block]:
    at = 0
    for block in blocks:
        first, last = max(0, start - at), min(len(block), max(0, stop - at))
        at += len(block)
        if first < last:
            begin = block.origin.tokens[0]
            origin = replace(block.origin, tokens=(begin + first, begin + last))
            yield replace(block, ids=block.ids[first:last], origin=origin)
