"""Surrogate stream: the span is compacted while it is read, so that its full cache never exists.

A chunk is read over what was kept so far, scored by the surrogate, and at once the least useful pairs of all older
chunks go. Memory is the budget and one chunk. What is read later sees less than in one piece: that is the price.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import ClassVar, NamedTuple

import torch

from holdfast.blocks.block import Block
from holdfast.context.budget import Budget
from holdfast.context.recompact import tighten
from holdfast.context.segments import Segment
from holdfast.context.surgery import keep_pairs
from holdfast.engine.kv_context import KVContext
from holdfast.engine.local import LocalEngine
from holdfast.errors import BadOption
from holdfast.methods.base import Span
from holdfast.methods.latent.surrogate import find_surrogate, predict_scores
from holdfast.methods.reference_queries import QueryRecorder
from holdfast.methods.surrogate_network import SurrogateNetwork
from holdfast.progress import Progress, quiet


class StreamStudy(NamedTuple):
    """A span that is read only when its budget is known."""

    span: Span
    past: KVContext
    engine: LocalEngine
    network: SurrogateNetwork


@dataclass(frozen=True)
class SurrogateStream:
    """Reads and evicts by turns."""

    chunk: int = 256
    """Tokens read at one time, all of which stay until the next are read."""
    weights: str = ""
    """As of `surrogate`."""

    name: ClassVar[str] = "surrogate_stream"
    by_turn: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.chunk < 1:
            raise BadOption(f"surrogate_stream: chunk must be at least 1 token, got {self.chunk}")

    def study(self, span: Span, past: KVContext, engine: LocalEngine, progress: Progress = quiet) -> StreamStudy:
        return StreamStudy(span, past, engine, find_surrogate(self.weights, engine))

    @torch.no_grad()
    def compress(self, study: StreamStudy, budget: Budget, progress: Progress = quiet) -> tuple[Segment, ...]:
        family, kept, live, at = study.engine.model.family, list[Segment](), study.past.fork(), study.span.start
        heads = family.kv_heads * len(family.full)
        for blocks in _cut(study.span.blocks, self.chunk):
            progress("read", at - study.span.start, len(study.span), "")
            part, record = Span(blocks, at), QueryRecorder()
            after, states = study.engine.capture(live, part.ids, part.positions, observer=record)
            scores = predict_scores(study.network, study.engine.model, states, record)
            everything = [
                torch.ones_like(scores[n], dtype=torch.bool) if n in scores else None for n in range(len(family.layers))
            ]
            if kept:
                kept = tighten(kept, min(_pairs(kept), budget.slots * heads))
            kept.append(keep_pairs(states, everything, part.origins, scores))
            at += len(part)
            del after
            live = study.past.fork().extend(kept, at)
        progress("read", len(study.span), len(study.span), "")
        return tuple(tighten(kept, min(_pairs(kept), budget.slots * heads)))


def _pairs(segments: list[Segment]) -> int:
    """Returns the number of scored pairs that are held."""
    return sum(len(part) for segment in segments for part in getattr(segment, "scores", ()))


def _cut(blocks: tuple[Block, ...], size: int) -> list[tuple[Block, ...]]:
    """Cuts blocks into runs of `size` tokens; a block that crosses an edge is split."""
    length = sum(map(len, blocks))
    return [_clip(blocks, first, last) for first, last in pairwise([*range(0, length, size), length])]


def _clip(blocks: tuple[Block, ...], first: int, last: int) -> tuple[Block, ...]:
    out, at = [], 0
    for block in blocks:
        start, stop = max(first - at, 0), min(last - at, len(block))
        if start < stop:
            begin = block.origin.tokens[0]
            origin = replace(block.origin, tokens=(begin + start, begin + stop))
            out.append(Block(block.ids[start:stop], origin))
        at += len(block)
    return tuple(out)
