"""Anchors: some of the span's own tokens, read anew in both directions by an adapted copy of the model, stand for all.

The form of SAC (https://arxiv.org/abs/2510.08907): keys and values of real tokens at their own positions, a learned
vector that says which they are, no reconstruction. Cost: one pass with the adapter, and that of
the choice where they are chosen. Serves models without sliding layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from holdfast.context.budget import Budget
from holdfast.context.segments import Segment, TokenSegment
from holdfast.context.surgery import keep_pairs
from holdfast.engine.kv_context import KVContext, check_retains
from holdfast.engine.local import LocalEngine
from holdfast.errors import BadOption
from holdfast.methods.base import Span
from holdfast.methods.inner_methods import build_inner_eviction
from holdfast.methods.method_with_weights import MethodWithWeights
from holdfast.methods.state_readers import AnchorTokens, load_reader, place_evenly
from holdfast.progress import Progress, quiet

CHOICES = ("every", "surprisal", "scores")


class Study(NamedTuple):
    """A span, what reads it, and how much each token is worth as an anchor."""

    span: Span
    reader: AnchorTokens
    worth: Tensor | None
    """`[T]`; None where the anchors stand evenly."""


@dataclass(frozen=True)
class Anchors(MethodWithWeights):
    """Keeps the states of a few tokens that have read their surroundings."""

    choose: str = "every"
    """Anchors at equal distances, those of the highest `surprisal`, or by the `scores` of a method."""
    by: str = "surrogate(otherwise=informed)"
    """The method whose scores choose."""

    name: ClassVar[str] = "anchors"
    by_turn: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.choose not in CHOICES:
            raise BadOption(f"anchors: choose must be one of {', '.join(CHOICES)}, got {self.choose!r}")
        build_inner_eviction(self.name, "by", self.by)

    def study(self, span: Span, past: KVContext, engine: LocalEngine, progress: Progress = quiet) -> Study:
        check_retains(engine.model)
        reader = load_reader("anchors", self.folder, engine.model)
        return Study(span, reader, self._worth(span, past, engine, progress))

    def compress(self, study: Study, budget: Budget, progress: Progress = quiet) -> tuple[Segment, ...]:
        span = study.span
        if budget.holds(len(span)):
            return (TokenSegment(span.ids, span.positions, span.origins),)
        progress("encode", 0, 1, "")
        made = read_anchors(study.reader, span, choose_anchors(study.worth, len(span), budget.slots))
        progress("encode", 1, 1, "")
        return made

    def _worth(self, span: Span, past: KVContext, engine: LocalEngine, progress: Progress) -> Tensor | None:
        if self.choose == "every":
            return None
        if self.choose == "surprisal":
            return engine.capture(past, span.ids, span.positions)[1].surprisal
        scores = build_inner_eviction(self.name, "by", self.by).study(span, past, engine, progress).scores
        return torch.stack([layer.mean(0) for layer in scores.values()]).mean(0)


def choose_anchors(worth: Tensor | None, tokens: int, count: int) -> Tensor:
    """Returns the indices of the anchors, in order, `[count]`."""
    if worth is None:
        return torch.tensor(place_evenly(tokens, count))
    return worth.topk(count).indices.sort().values.cpu()


def read_anchors(reader: AnchorTokens, span: Span, anchors: Tensor) -> tuple[Segment, ...]:
    """Returns the anchors' states, a segment a chunk; gradients go into the reader."""
    parts = reader.read(span.ids, span.start, anchors)
    return tuple(keep_pairs(states, [None] * len(states.keys), span.origins) for states in parts)
