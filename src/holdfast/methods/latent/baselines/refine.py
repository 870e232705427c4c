"""Refine: a few tens of gradient steps on the keys, biases and values that another method left.

Attention matching in closed form cannot move keys; descent can (Zweiger et al., https://arxiv.org/abs/2602.16284,
their joint optimiser). Layers are independent and the model is not run: the loss is each head's output error on
reference queries plus a small part of its squared log-mass error. Held-out queries choose each head's best step, the
start among them. Cost: the start's, a pass of reference queries, and `steps` small products a layer.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from holdfast.context.budget import Budget
from holdfast.context.segments import Segment, StateSegment
from holdfast.engine.kv_context import KVContext
from holdfast.engine.local import LocalEngine
from holdfast.errors import BadOption
from holdfast.methods.base import Span, prefill_progress
from holdfast.methods.inner_methods import build_inner
from holdfast.methods.latent.attention_match import Errors, summarize_errors
from holdfast.methods.per_head import LOG_BOUND, HeadSlots, affordable_counts, build_segment
from holdfast.methods.query_batch import QueryBatch, attend, attention_error, output_and_mass_error, sample_queries
from holdfast.methods.reference_queries import SpanPrefill, check_query_options
from holdfast.model.rope import Rope
from holdfast.progress import Progress, quiet

MASS = 0.05  # part of the squared log-mass error in the loss
EVERY = 5  # steps between two looks at the held-out queries
PARTS = ("keys", "values", "bias")


class Study(NamedTuple):
    """The state of a span before a budget is chosen."""

    start: Any
    prefill: SpanPrefill
    batches: dict[int, QueryBatch]
    report: dict[str, float]
    """Filled by `compress` for the latest budget: `heads`, how many stayed `plain`, and the mean held-out `deviation`
    `before` and `after`."""

    @property
    def span(self) -> Span:
        return self.prefill.span


class _Layer(NamedTuple):
    """One layer's heads, padded to the longest."""

    keys: Tensor
    """`[G, n, D]` float32, rotated"""
    values: Tensor
    """`[G, n, D]` float32"""
    bias: Tensor
    """`[G, n]` float32, -inf at padding"""

    def attend(self, one: QueryBatch) -> tuple[Tensor, Tensor]:
        """Computes the output `[G, N, D]` and the log-mass `[G, N]` of a layer's queries."""
        attention, mass = attend(one, self.keys, self.bias)
        return attention @ self.values, mass


@dataclass(frozen=True)
class Refine:
    """Moves keys, values and biases by gradient."""

    start: str = "informed"
    """The method whose slots are refined; it must leave states, not virtual tokens."""
    what: str = "keys+values+bias"
    """Parts that move: keys, values, bias, or several joined by `+`. A bias costs a number a slot, paid in slots."""
    queries: str = "repeat+own"
    """Reference queries: repeat, own, later, study, random, or several joined by `+`."""
    most: int = 1024
    """Queries per KV head, all sources together."""
    steps: int = 30
    lr: float = 0.02
    """Of Adam, in parts of the size of a layer's keys and values, and in nats of a bias."""
    held: float = 0.25
    """Share of the queries that are held out."""

    name: ClassVar[str] = "refine"
    by_turn: ClassVar[bool] = False

    def __post_init__(self) -> None:
        build_inner(self.name, "start", self.start)
        check_query_options(self.name, self.queries, 1, 0)
        if unknown := [part for part in self.what.split("+") if part not in PARTS]:
            raise BadOption(f"{self.name}: what must be {', '.join(PARTS)} or several joined by +, got {unknown[0]!r}")
        if self.steps < 0 or not 0 < self.lr < math.inf or self.most < 1 or not 0 < self.held <= 0.5:
            raise BadOption(f"{self.name}: needs steps >= 0, lr > 0, most >= 1 and held above 0 and up to 0.5")

    @torch.no_grad()
    def study(self, span: Span, past: KVContext, engine: LocalEngine, progress: Progress = quiet) -> Study:
        start = build_inner(self.name, "start", self.start).study(span, past, engine, progress)
        after, states = engine.capture(past, span.ids, span.positions, prefill_progress(progress))
        prefill = SpanPrefill(span, past, after, states, engine, progress)
        return Study(start, prefill, sample_queries(prefill, self.queries, self.most, self.held), {})

    def compress(self, study: Study, budget: Budget, progress: Progress = quiet) -> tuple[Segment, ...]:
        made = build_inner(self.name, "start", self.start).compress(study.start, budget, progress)
        segment = made[0]
        if len(made) != 1 or not isinstance(segment, StateSegment):
            raise BadOption(f"{self.name}: start={self.start} leaves no KV pairs that could be refined; use informed")
        study.report.clear()
        if budget.holds(len(study.span)):
            return made
        prefill = study.prefill
        heads = heads_of(segment, prefill.layers)
        if "bias" in self.what and all(s.bias is None for s in segment.layers):
            lengths = [len(h) for mine in heads.values() for h in mine]
            counts = iter(affordable_counts(lengths, budget, prefill.states))
            heads = {layer: [keep_best(h, next(counts)) for h in mine] for layer, mine in heads.items()}
        errors: list[Errors] = []
        for done, (layer, mine) in enumerate(heads.items()):
            progress("refine", done, len(heads), "")
            index = [g for g, head in enumerate(mine) if len(head)]
            if index:
                rope, one = prefill.engine.model.family.layers[layer].rope, study.batches[layer].select_heads(index)
                moved, found = self._refine_heads(one, [mine[g] for g in index], rope)
                heads[layer] = [moved[index.index(g)] if g in index else head for g, head in enumerate(mine)]
                errors += found
        study.report.update(summarize_errors(errors))
        return (build_segment(prefill.states, heads, study.span.origins),)

    def _refine_heads(
        self, one: QueryBatch, heads: Sequence[HeadSlots], rope: Rope
    ) -> tuple[list[HeadSlots], list[Errors]]:
        """Returns the heads of one layer, each at its best step by held-out queries, and both errors."""
        learn, judge = one.split_held_out()
        best = pad_heads(heads, rope)
        first = errors = attention_error(judge, *best.attend(judge))
        for tuned in descend(learn, best, self.what.split("+"), self.steps, self.lr):
            now = attention_error(judge, *tuned.attend(judge))
            better = now < errors
            errors = torch.where(better, now, errors)
            best = _Layer(*(torch.where(broadcast(better, a), a, b) for a, b in zip(tuned, best, strict=True)))
        moved = (errors < first).tolist()
        out = [unpad_head(best, g, head, rope) if moved[g] else head for g, head in enumerate(heads)]
        return out, list(zip(first.tolist(), errors.tolist(), [not m for m in moved], strict=True))


def descend(learn: QueryBatch, start: _Layer, what: Sequence[str], steps: int, lr: float) -> Iterator[_Layer]:
    """Runs Adam from `start`; yields the layer every few steps and at the end."""
    sizes = [start.keys.square().mean().sqrt(), start.values.square().mean().sqrt(), start.bias.new_ones(())]
    moves = [torch.zeros_like(x).requires_grad_(part in what) for part, x in zip(PARTS, start, strict=True)]
    optimiser = torch.optim.Adam([m for m in moves if m.requires_grad], lr=lr)

    def move() -> _Layer:
        keys, values, bias = (x + m * size for x, m, size in zip(start, moves, sizes, strict=True))
        inside = bias.clamp(-LOG_BOUND, LOG_BOUND)
        return _Layer(keys, values, torch.where(start.bias.isinf(), start.bias, inside))

    for step in range(1, steps + 1):
        with torch.enable_grad():
            optimiser.zero_grad()
            output, mass = output_and_mass_error(learn, *move().attend(learn))
            torch.autograd.backward((output + MASS * mass).sum())
        optimiser.step()
        if step % EVERY == 0 or step == steps:
            with torch.no_grad():
                yield move()


def pad_heads(heads: Sequence[HeadSlots], rope: Rope) -> _Layer:
    """Stacks heads, padded to the longest, with keys rotated to their positions."""
    biases = [torch.zeros_like(h.positions) if h.bias is None else h.bias for h in heads]
    return _Layer(
        pad_sequence([rope.rotate(h.keys.float(), h.positions) for h in heads], batch_first=True),
        pad_sequence([h.values.float() for h in heads], batch_first=True),
        pad_sequence(biases, batch_first=True, padding_value=-torch.inf),
    )


def unpad_head(layer: _Layer, g: int, head: HeadSlots, rope: Rope) -> HeadSlots:
    """Returns head `g` of a layer without padding, its keys un-rotated as they are stored."""
    n = len(head)
    bias = layer.bias[g, :n]
    keys = rope.unrotate(layer.keys[g, :n], head.positions)
    return replace(head, keys=keys, values=layer.values[g, :n], bias=bias if bool(bias.any()) else None)


def heads_of(segment: StateSegment, layers: Sequence[int]) -> dict[int, list[HeadSlots]]:
    """Returns the heads of some layers of a segment, with scores of zero if it has none."""
    out = {}
    for layer in layers:
        slots = segment.layers[layer].plain(torch.float32)
        scores = segment.scores[layer] if segment.scores else torch.zeros_like(slots.positions)
        parts = torch.split(scores, list(slots.lengths))
        out[layer] = [HeadSlots(*head, part) for head, part in zip(slots.heads(), parts, strict=True)]
    return out


def keep_best(head: HeadSlots, count: int) -> HeadSlots:
    """Returns the `count` slots of highest score, in their order."""
    if count == len(head):
        return head
    return head.select(head.scores.argsort(descending=True, stable=True)[:count].sort().values)


def broadcast(mask: Tensor, like: Tensor) -> Tensor:
    """Reshapes `mask [G]` so that it broadcasts over `like [G, ...]`."""
    return mask.view(-1, *[1] * (like.dim() - 1))
