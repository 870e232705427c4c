"""ICAE: a trained encoder writes a span as memory tokens, input embeddings that the same model reads instead of it.

The recipe of the thesis "Learned, implicit condensation for software agents" and of ICAE
(https://arxiv.org/abs/2307.06945): segments of equal length, vectors from an adapted copy of the model, the model
itself frozen. What `holdfast train icae` wrote is loaded; without training the vectors say nothing, which is a row of
its own. Cost: one pass with the adapter. Serves every family.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, NamedTuple

import torch

from holdfast.context.budget import Budget
from holdfast.context.segments import Segment, SoftSegment, TokenSegment
from holdfast.engine.kv_context import KVContext
from holdfast.engine.local import LocalEngine
from holdfast.methods.base import Span
from holdfast.methods.memory_tokens import Icae as Encoder
from holdfast.methods.memory_tokens import load_icae, place_segments
from holdfast.methods.method_with_weights import MethodWithWeights
from holdfast.progress import Progress, quiet

AT_ONCE = 64  # segments in one pass


class Study(NamedTuple):
    """A span and the encoder that will write it: how it is cut depends on the budget."""

    span: Span
    encoder: Encoder


@dataclass(frozen=True)
class Icae(MethodWithWeights):
    """Replaces a span by the memory vectors of a trained encoder."""

    name: ClassVar[str] = "icae"
    by_turn: ClassVar[bool] = True

    def study(self, span: Span, past: KVContext, engine: LocalEngine, progress: Progress = quiet) -> Study:
        return Study(span, load_icae(self.folder, engine.model))

    @torch.no_grad()
    def compress(self, study: Study, budget: Budget, progress: Progress = quiet) -> tuple[Segment, ...]:
        span, recipe = study.span, study.encoder.recipe
        if budget.holds(len(span)):
            return (TokenSegment(span.ids, span.positions, span.origins),)
        few = max(math.ceil(len(span) / recipe.segment), math.ceil(budget.slots / recipe.memory))
        count = min(few, budget.slots)  # segments
        parts = torch.tensor_split(span.ids, count)
        ends = [budget.slots * n // count for n in range(count + 1)]
        shares = [last - first for first, last in pairwise(ends)]  # at least one, at most the trained number
        vectors = []
        for first in range(0, count, AT_ONCE):
            progress("encode", first, count, "")
            some = list(zip(parts, shares, strict=True))[first : first + AT_ONCE]
            vectors += study.encoder.encode_segments(some)
        positions = place_segments([(len(part), k) for part, k in zip(parts, shares, strict=True)], span.start)
        if not recipe.epl:
            positions = span.start + torch.arange(len(positions), dtype=torch.float32)
        return (SoftSegment(torch.cat(vectors).to(study.encoder.base.dtype), positions, span.origins),)
