"""The objective of every learned reader of states: what the model says next over the compact memory as over the whole.

The loss is the KL of the two on what the session says after the span: no reconstruction, and nothing of the text is
scored by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from holdfast.blocks.block import Block, Kind, Origin
from holdfast.context.budget import budget_from_ratio
from holdfast.context.segments import Segment
from holdfast.engine.kv_context import KVContext
from holdfast.engine.local import LocalEngine
from holdfast.errors import BadInput, BadOption
from holdfast.learn.loop import Loss
from holdfast.learn.soft import divergence
from holdfast.methods.base import Span
from holdfast.methods.latent.baselines.anchors import choose_anchors, read_anchors
from holdfast.methods.latent.baselines.restore import compress_with, study_with
from holdfast.methods.registry import build
from holdfast.methods.state_readers import AnchorTokens, RestoreTokens
from holdfast.model.load import Model
from holdfast.progress import quiet


@dataclass(frozen=True)
class SpanRow:
    """A cut of a session: what stands before a span, the span, and what was said after it."""

    past: tuple[int, ...]
    span: tuple[int, ...]
    later: tuple[int, ...]
    ratio: float

    def as_span(self, model: Model) -> Span:
        """Returns the span as a method reads it."""
        block = Block(self.span, Origin(0, Kind.OBSERVATION, (0, 0), (0, len(self.span))))
        return Span((block,), len(self.past), later=torch.tensor(self.later))


class SpanRows(Sequence[SpanRow]):
    """Cuts of the streams, each at ratios in turn."""

    def __init__(self, streams: Sequence[tuple[int, ...]], past: int, span: int, later: int, ratios: str) -> None:
        self.streams, self.sizes = streams, (past, span, later)
        self.ratios = read_ratios(ratios)
        step = max(1, span // 2)
        size = past + span + later
        self.starts = [(n, at) for n, s in enumerate(streams) for at in range(0, len(s) - size + 1, step)]
        if not self.starts:
            raise BadInput(f"no session has {size} tokens; give longer ones, or a smaller window or later")

    def __len__(self) -> int:
        return len(self.starts) * len(self.ratios)

    def __getitem__(self, index: Any) -> Any:
        (number, at), ratio = self.starts[index // len(self.ratios)], self.ratios[index % len(self.ratios)]
        first, second = at + self.sizes[0], at + self.sizes[0] + self.sizes[1]
        stream = self.streams[number]
        return SpanRow(stream[at:first], stream[first:second], stream[second : second + self.sizes[2]], ratio)


def read_ratios(text: str) -> tuple[float, ...]:
    """Returns the ratios of `8+16+32`. Raises BadOption for anything else."""
    try:
        found = tuple(float(part) for part in text.split("+"))
    except ValueError as error:
        raise BadOption(f"ratios must be numbers joined by +, such as 8+16+32, got {text!r}") from error
    if min(found) <= 1:
        raise BadOption(f"ratios must be above 1, got {text!r}")
    return found


class Compression(Protocol):
    """One compression of a span with gradients."""

    def __call__(self, row: SpanRow, memory: KVContext) -> tuple[Sequence[Segment], KVContext]:
        """Returns the segments, and the memory that holds all of the span behind `memory`."""
        ...


@dataclass
class StateObjective:
    """Trains a reader so that the session goes on as it would."""

    engine: LocalEngine
    reader: Any
    compression: Compression

    def parameters(self) -> dict[str, nn.Parameter]:
        return self.reader.parameters()  # type: ignore[no-any-return]

    def loss(self, rows: Sequence[SpanRow]) -> Loss:
        total, count, tokens = torch.zeros((), device=self.engine.model.device), 0, 0
        for row in rows:
            divergence_, n = self.diverge(row)
            total, count, tokens = total + divergence_, count + n, tokens + len(row.past) + len(row.span)
        return Loss(total, count, tokens)

    def diverge(self, row: SpanRow) -> tuple[Tensor, int]:
        """Returns the summed KL of a row, nats, and of how many tokens."""
        model, end = self.engine.model, len(row.past) + len(row.span)
        memory = KVContext(model)
        with torch.no_grad():
            memory.feed(list(row.past))
        segments, after = self.compression(row, memory)
        with torch.no_grad():
            theirs = after.fork().feed(list(row.later))
        for segment in segments:
            memory.append(segment)
        memory.settle(end)
        ours = memory.feed(list(row.later))
        ids = torch.tensor(row.later, device=model.device)
        return divergence(model, ours, ids, theirs, 1.0), len(row.later)


@dataclass(frozen=True)
class RestoreCompression:
    """The compression of `methods/latent/baselines/restore.py`, with a reader that is being trained."""

    engine: LocalEngine
    reader: RestoreTokens
    select: str

    def __call__(self, row: SpanRow, memory: KVContext) -> tuple[Sequence[Segment], KVContext]:
        inner: Any = build(self.select)
        study = study_with(self.reader, inner, row.as_span(self.engine.model), memory, self.engine, quiet)
        return compress_with(inner, study, budget_from_ratio(len(row.span), row.ratio)), study.prefill.after


@dataclass(frozen=True)
class AnchorCompression:
    """The compression of `methods/latent/baselines/anchors.py`, with a reader that is being trained."""

    engine: LocalEngine
    reader: AnchorTokens
    by: str
    """Empty for anchors at equal distances, `surprisal`, or a method whose scores choose."""

    def __call__(self, row: SpanRow, memory: KVContext) -> tuple[Sequence[Segment], KVContext]:
        span = row.as_span(self.engine.model)
        after, states = self.engine.capture(memory, span.ids, span.positions)
        worth = states.surprisal if self.by == "surprisal" else None
        if self.by and worth is None:
            method: Any = build(self.by)
            scores = method.study(span, memory, self.engine).scores
            worth = torch.stack([layer.mean(0) for layer in scores.values()]).mean(0)
        slots = budget_from_ratio(len(span), row.ratio).slots
        return read_anchors(self.reader, span, choose_anchors(worth, len(span), slots)), after
