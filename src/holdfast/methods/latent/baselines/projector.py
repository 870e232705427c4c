"""Projector: a trained network makes one input embedding of every two (https://arxiv.org/abs/2307.06945 is the rival).

The second idea of the thesis: the model stays frozen, a projection from two embeddings to one is trained on answers. A
budget below a half is met by leaving out vectors evenly, one above it by the newest tokens as they are.
Cost: next to nothing. Serves every family.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch

from holdfast.context.budget import Budget
from holdfast.context.segments import Segment, SoftSegment, TokenSegment
from holdfast.engine.kv_context import KVContext
from holdfast.engine.local import LocalEngine
from holdfast.methods.base import Span
from holdfast.methods.method_with_weights import MethodWithWeights
from holdfast.methods.state_readers import place_evenly
from holdfast.methods.token_groups import Projector as Network
from holdfast.methods.token_groups import ProjectorRecipe, load_projector
from holdfast.progress import Progress, quiet


class Study(NamedTuple):
    """A span and the network."""

    span: Span
    network: Network


@dataclass(frozen=True)
class Projector(MethodWithWeights):
    """Replaces every two tokens by what a trained network makes of them."""

    name: ClassVar[str] = "projector"
    by_turn: ClassVar[bool] = True

    def study(self, span: Span, past: KVContext, engine: LocalEngine, progress: Progress = quiet) -> Study:
        folder = self.folder
        return Study(span, load_projector(folder, engine.model) if folder else Network(engine.model, ProjectorRecipe()))

    @torch.no_grad()
    def compress(self, study: Study, budget: Budget, progress: Progress = quiet) -> tuple[Segment, ...]:
        span = study.span
        if budget.holds(len(span)):
            return (TokenSegment(span.ids, span.positions, span.origins),)
        progress("encode", 0, 1, "")
        verbatim = max(0, 2 * budget.slots - len(span))  # the newest tokens, where a budget holds more than a half
        cut = len(span) - verbatim
        made = study.network.project(span.ids[:cut])
        kept = torch.tensor(place_evenly(len(made.vectors), min(budget.slots - verbatim, len(made.vectors))))
        vectors = made.vectors[kept].to(study.network.base.dtype)
        places = (made.positions[kept] + span.start).clamp(max=span.start + cut - 1)
        soft = SoftSegment(vectors, places, span.origins)
        progress("encode", 1, 1, "")
        if not verbatim:
            return (soft,)
        return (soft, TokenSegment(span.ids[cut:], span.positions[cut:], span.origins))
