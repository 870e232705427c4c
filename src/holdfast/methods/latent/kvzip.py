"""KVzip: keep the KV pairs that the model looks at when it repeats the span (Kim et al., https://arxiv.org/abs/2505.23416).

The score of a pair is the largest attention that it receives from any query of a teacher-forced repeat; the best
pairs stay under ONE threshold over all layers and heads, so heads keep different numbers. Cost: one prefill and
one repeat, in chunks. Serves every family; sliding layers are kept as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from holdfast.context.budget import Budget
from holdfast.context.segments import Segment
from holdfast.context.surgery import best, best_per_head, keep
from holdfast.engine.live import Live
from holdfast.engine.local import LocalEngine
from holdfast.errors import BadOption
from holdfast.methods.base import Progress, Span, quiet, reading
from holdfast.methods.repeat import prompt_ids
from holdfast.model.states import States

ALLOCATIONS = ("global", "head")


class Study(NamedTuple):
    """States of the span and the score of each of its KV pairs, per full-attention layer `[G, T]`."""

    span: Span
    states: States
    scores: dict[int, Tensor]


@dataclass(frozen=True)
class KVzip:
    """Keeps the KV pairs that a repeat of the span attends to."""

    allocation: str = "global"
    """`global`: one threshold over all layers and heads; `head`: the same number for every head (the ablation)."""
    chunk: int = 256
    """Tokens repeated at one time. Short chunks keep the request near and did better than long ones (docs/log.md)."""

    name: ClassVar[str] = "kvzip"
    by_turn: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.allocation not in ALLOCATIONS:
            raise BadOption(f"kvzip: allocation must be one of {', '.join(ALLOCATIONS)}, got {self.allocation!r}")
        if self.chunk < 1:
            raise BadOption(f"kvzip: chunk must be at least 1 token, got {self.chunk}")

    def study(self, span: Span, past: Live, engine: LocalEngine, progress: Progress = quiet) -> Study:
        after, states = engine.capture(past, span.ids, span.positions, reading(progress))
        return Study(span, states, repeat_scores(span, after, engine, self.chunk, progress))

    def compress(self, study: Study, budget: Budget, progress: Progress = quiet) -> tuple[Segment, ...]:
        heads = sum(s.shape[0] for s in study.scores.values())
        if self.allocation == "head":
            chosen = best_per_head(study.scores, budget.slots)
        else:
            chosen = best(study.scores, budget.pairs(heads))
        masks = [chosen.get(layer) for layer in range(len(study.states.keys))]
        return (keep(study.states, masks, study.span.origins),)


@torch.no_grad()
def repeat_scores(
    span: Span, after: Live, engine: LocalEngine, chunk: int, progress: Progress = quiet
) -> dict[int, Tensor]:
    """Largest attention on each KV pair of the span while the model repeats it, `[G, T]` per full layer."""
    T, family, device = len(span), engine.model.family, engine.model.device
    scores = {layer: torch.zeros(family.kv_heads, T, device=device) for layer in family.full}

    def observe(layer: int, head: int, p: Tensor) -> None:
        if layer in scores:
            seen = p[..., -T:].amax((0, 1, 2))
            torch.maximum(scores[layer][head], seen, out=scores[layer][head])

    frozen = after.fork(frozen=True)
    prompt = prompt_ids(engine.model)
    for at in range(0, T, chunk):
        progress("repeat", at, T, "")
        frozen.fork().feed([*prompt, *span.ids[at : at + chunk].tolist()], observer=observe)
    progress("repeat", T, T, "")
    return scores
