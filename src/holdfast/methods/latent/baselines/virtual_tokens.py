"""Gradient-tuned virtual tokens: input embeddings whose values, in every layer, match the pooled values of a span.

The recipe of "Compressing Coding Agent Context at Models' Native Representation Layer" (the seed of this project):
mean-pooled embeddings of contiguous blocks are tuned, the model frozen, towards the span's value vectors pooled
per block with surprisal as weight; positions are interpolated over the span. The loss is

    mean over layers l of  sum (X_l - Y_l)^2 / sum (Y_l - mean_slots Y_l)^2

with X the virtual tokens' vectors and Y the pooled targets: the share of each layer's variance that is not yet
explained, so that no layer dominates. Cost: one prefill of the span, then `steps` forward and backward passes over
the virtual tokens. With `distil`, our addition, as many passes over a repeat of the span follow, towards the
distribution that the full context gives: values alone say what a slot holds, not how it is found. Serves every family.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from holdfast.blocks.render import question_ids
from holdfast.context.budget import Budget
from holdfast.context.segments import Segment, SoftSegment, StateSegment
from holdfast.context.surgery import keep_pairs
from holdfast.engine.kv_context import KVContext
from holdfast.engine.local import LocalEngine
from holdfast.errors import BadOption
from holdfast.methods.base import Span, prefill_progress
from holdfast.methods.repeat_prompt import Teacher, record_teacher, teacher_divergence
from holdfast.methods.surprisal_weight import pooling_weight
from holdfast.model.forward import embed
from holdfast.model.rope import spread_positions
from holdfast.model.states import States
from holdfast.progress import Progress, quiet

CHOICES = {
    "target": ("v", "kv", "kv_pre_rope", "final"),
    "weights": ("surprisal", "uniform", "attention"),
    "positions": ("interpolated", "consecutive"),
    "verbatim": ("none", "uniqueness", "perplexity"),
    "start": ("pooled", "weighted", "token"),
    "optimiser": ("adam", "lbfgs"),
}


class Study(NamedTuple):
    """The state of a span before a budget is chosen."""

    span: Span
    past: KVContext
    states: States
    weights: Tensor
    """`[T]`, what each token counts in its block's mean."""
    embeds: Tensor
    """`[T, d]`"""
    teacher: Teacher | None


@dataclass(frozen=True)
class VirtualTokens:
    """Replaces a span by fewer input embeddings, tuned to leave the same values in every layer."""

    target: str = "v"
    """Target of the match: `v` values, `kv` rotated keys and values, `kv_pre_rope` un-rotated keys and values, `final`
    the last hidden states."""
    weights: str = "surprisal"
    """Weight of a token in the mean of its block: its surprisal, 1 (`uniform`), or the attention of `question`."""
    positions: str = "interpolated"
    """`interpolated` over the span, or `consecutive` from its start."""
    verbatim: str = "none"
    """`uniqueness` or `perplexity`: this selector's best `share` of the tokens keep their own KV."""
    share: float = 0.15
    """Share of the span's tokens that a hybrid keeps verbatim."""
    question: str = ""
    """The text whose attention weighs the tokens with weights=attention."""
    start: str = "pooled"
    """Start of the tuning: `pooled` block means, `weighted` block means, or each block's heaviest `token`."""
    optimiser: str = "adam"
    """`adam` with a cosine schedule down to a tenth, or `lbfgs` with a strong-Wolfe line search."""
    steps: int = 100
    """Evaluations of the loss while matching."""
    patience: int = 20
    """Stop after so many steps without an improvement of 0.1 %."""
    lr: float = 0.03
    distil: int = 0
    """Further steps towards the full context's distribution over a repeat of the span (not in the seed)."""

    name: ClassVar[str] = "virtual_tokens"
    by_turn: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for key, allowed in CHOICES.items():
            if getattr(self, key) not in allowed:
                raise BadOption(
                    f"virtual_tokens: {key} must be one of {', '.join(allowed)}, got {getattr(self, key)!r}"
                )
        if self.weights == "attention" and not self.question:
            raise BadOption("virtual_tokens: weights=attention weighs by a question; give question=...")
        bad = min(self.steps, self.distil) < 0 or self.patience < 1
        if bad or not 0 < self.share < 1 or not 0 < self.lr < math.inf:
            raise BadOption("virtual_tokens: needs steps and distil >= 0, patience >= 1, 0 < share < 1 and lr > 0")

    def study(self, span: Span, past: KVContext, engine: LocalEngine, progress: Progress = quiet) -> Study:
        after, states = engine.capture(past, span.ids, span.positions, prefill_progress(progress))
        weights = self._weights(states, after, engine)
        with torch.no_grad():
            embeds = embed(engine.model, span.ids.to(engine.model.device))
        return Study(span, past, states, weights, embeds, record_teacher(after, span.ids) if self.distil else None)

    def compress(self, study: Study, budget: Budget, progress: Progress = quiet) -> tuple[Segment, ...]:
        kept, rest = self._split(study, budget)
        past = study.past
        if kept is not None:
            past = past.fork()
            past.append(kept)
        slots = budget.slots - (len(kept) if kept is not None else 0)
        pool = pooling_matrix(study.weights[rest], slots)
        positions = self._positions(study.states.positions[rest], slots)
        targets = self._targets(study.states, rest, pool, past, positions)
        embeds = self._tune(self._start(study, rest, pool), positions, targets, past, progress)
        if study.teacher is not None:
            embeds = self._distil(embeds, positions, past, study, progress)
        soft = SoftSegment(embeds, positions.cpu(), study.span.origins)
        return (soft,) if kept is None else (kept, soft)

    def _weights(self, states: States, after: KVContext, engine: LocalEngine) -> Tensor:
        if self.weights == "uniform":
            return torch.ones_like(states.positions)
        if self.weights == "surprisal":
            return pooling_weight(states.surprisal)
        return attention_received(after, question_ids(engine.model.tokenizer, self.question), len(states.positions))

    def _split(self, study: Study, budget: Budget) -> tuple[StateSegment | None, Tensor]:
        """Returns the verbatim part of a hybrid and the indices of the tokens that are left to compress."""
        T = len(study.span)
        if self.verbatim == "none":
            return None, torch.arange(T)
        count = math.floor(self.share * T)
        if not 0 < count < budget.slots:
            raise BadOption(
                f"virtual_tokens: keeping {self.share:.0%} of {T} tokens verbatim takes {count} of {budget.slots} "
                "slots; the span is too short for a hybrid at this ratio (use a lower ratio, a smaller share, or none)"
            )
        score = study.states.surprisal if self.verbatim == "perplexity" else uniqueness(study.states)
        chosen = torch.zeros(T, dtype=torch.bool, device=score.device)
        chosen[score.topk(count).indices] = True
        masks = [_last(chosen, k.shape[1]).expand(k.shape[0], -1) for k in study.states.keys]
        return keep_pairs(study.states, masks, study.span.origins), (~chosen).nonzero()[:, 0]

    def _positions(self, of: Tensor, slots: int) -> Tensor:
        if self.positions == "consecutive":
            return of[0] + torch.arange(slots, device=of.device, dtype=torch.float32)
        return spread_positions(float(of[0]), float(of[-1]), slots).to(of.device)

    def _start(self, study: Study, rest: Tensor, pool: Tensor) -> Tensor:
        embeds, weights = study.embeds[rest].float(), study.weights[rest]
        if self.start == "weighted":
            return pool @ embeds
        if self.start == "token":
            return embeds[(pool * (weights > 0)).argmax(1)]
        return pooling_matrix(torch.ones_like(weights), pool.shape[0]) @ embeds

    def _targets(self, states: States, rest: Tensor, pool: Tensor, past: KVContext, positions: Tensor) -> list[Tensor]:
        """Returns the target vectors of the virtual tokens, a list of `[..., slots, D]` in the order of `_vectors`."""
        if self.target == "final":
            return [pool @ states.hidden[rest].float()]
        layers = past.model.family.layers
        at = states.positions[rest]
        out = []
        for layer, keys, values in zip(layers, states.keys, states.values, strict=True):
            seen = rest - (len(states.positions) - keys.shape[1])  # sliding layers hold the last tokens only
            p, where = _visible(pool, seen)
            out.append(p @ values[:, where].float())
            if self.target == "kv":
                out.append(p @ layer.rope.rotate(keys[:, where].float(), at[seen >= 0]))
            if self.target == "kv_pre_rope":
                out.append(p @ keys[:, where].float())
        return out

    def _vectors(self, live: KVContext, hidden: Tensor, positions: Tensor) -> list[Tensor]:
        if self.target == "final":
            return [hidden.float()]
        out = []
        for index, layer in enumerate(live.model.family.layers):
            keys, values = live.cache.newest(index, len(positions))
            out.append(values.float())
            if self.target == "kv":
                out.append(keys.float())
            if self.target == "kv_pre_rope":
                out.append(layer.rope.unrotate(keys.float(), positions))
        return out

    def _tune(
        self, start: Tensor, positions: Tensor, targets: list[Tensor], past: KVContext, progress: Progress
    ) -> Tensor:
        # a single slot has no variance: there it is the share of the power
        scales = [((y - (y.mean(-2, keepdim=True) if y.shape[-2] > 1 else 0)) ** 2).sum() for y in targets]

        def loss_of(embeds: Tensor) -> Tensor:
            live = past.fork()
            hidden = live.feed_inputs(embeds.to(past.model.dtype), positions)
            vectors = self._vectors(live, hidden, positions)
            held = [x[..., x.shape[-2] - y.shape[-2] :, :] for x, y in zip(vectors, targets, strict=True)]
            parts = [((x - y) ** 2).sum() / s for x, y, s in zip(held, targets, scales, strict=True)]
            return torch.stack(parts).mean()

        return minimise(loss_of, start, self, self.steps, partial(progress, "match"))

    def _distil(self, start: Tensor, positions: Tensor, past: KVContext, study: Study, progress: Progress) -> Tensor:
        def loss_of(embeds: Tensor) -> Tensor:
            live = past.fork()
            live.feed_inputs(embeds.to(past.model.dtype), positions)
            live.next_position = study.span.start + len(study.span)
            assert study.teacher is not None
            return teacher_divergence(study.teacher, live)

        return minimise(loss_of, start, self, self.distil, partial(progress, "distil"))


def minimise(
    loss_of: Callable[[Tensor], Tensor], start: Tensor, how: VirtualTokens, steps: int, report: Callable[..., None]
) -> Tensor:
    """Returns the best embeddings of at most `steps` evaluations; stops when `how.patience` of them gain nothing."""
    search = _Search(loss_of, start.detach().clone().float().requires_grad_(True), how, steps, report)
    if steps and how.optimiser == "lbfgs":
        search.lbfgs()
    elif steps:
        search.adam()
    return search.best


class _Stop(Exception):  # leaves an optimiser in the middle of its line search
    pass


class _Search:
    """One minimisation: the best embeddings so far, and when to stop."""

    def __init__(
        self,
        loss_of: Callable[[Tensor], Tensor],
        embeds: Tensor,
        how: VirtualTokens,
        steps: int,
        report: Callable[..., None],
    ) -> None:
        self.loss_of, self.embeds, self.how, self.steps, self.report = loss_of, embeds, how, steps, report
        self.best, self.best_loss, self.since, self.step = embeds.detach().clone(), float("inf"), 0, 0

    def adam(self) -> None:
        optimiser = torch.optim.Adam([self.embeds], lr=self.how.lr, betas=(0.9, 0.95))
        for _ in range(self.steps):
            for group in optimiser.param_groups:
                group["lr"] = self.how.lr * (0.1 + 0.45 * (1 + math.cos(math.pi * self.step / self.steps)))
            try:
                self.evaluate()
            except _Stop:
                return
            optimiser.step()

    def lbfgs(self) -> None:
        optimiser = torch.optim.LBFGS(
            [self.embeds], max_iter=self.steps, history_size=20, line_search_fn="strong_wolfe"
        )
        try:
            optimiser.step(self.evaluate)  # type: ignore[no-untyped-call]
        except _Stop:
            return

    def evaluate(self) -> float:
        """Loss and gradient at the current embeddings; raises _Stop when there is nothing left to gain."""
        with torch.enable_grad():
            self.embeds.grad = None
            loss = self.loss_of(self.embeds)
            torch.autograd.backward(loss)
        value, self.step = loss.item(), self.step + 1
        self.since = 0 if value < self.best_loss * 0.999 else self.since + 1
        if value < self.best_loss:
            self.best, self.best_loss = self.embeds.detach().clone(), value
        self.report(self.step, self.steps, f"loss {self.best_loss:.4f}")
        if self.step >= self.steps or self.since >= self.how.patience:
            raise _Stop
        return value


def pooling_matrix(weights: Tensor, slots: int) -> Tensor:
    """Returns rows `[slots, T]` that average contiguous blocks of nearly equal length by the tokens' `weights [T]`."""
    T = len(weights)
    block = (torch.arange(T, device=weights.device) * slots) // T
    matrix = torch.zeros(slots, T, device=weights.device)
    matrix[block, torch.arange(T, device=weights.device)] = weights
    return matrix / matrix.sum(1, keepdim=True)


def uniqueness(states: States) -> Tensor:
    """Measures how far each token's values are from the mean of its two neighbours', relative to their size, `[T]`."""
    total = torch.zeros_like(states.positions)
    for values in states.values:
        v = values.float()
        if v.shape[1] < 3:
            continue
        left, right = torch.roll(v, 1, 1), torch.roll(v, -1, 1)
        left[:, 0], right[:, -1] = v[:, 1], v[:, -2]
        apart = (v - (left + right) / 2).norm(dim=-1) / v.norm(dim=-1).mean()
        total[-v.shape[1] :] += apart.mean(0)
    return total


@torch.no_grad()
def attention_received(after: KVContext, prompt: list[int], count: int) -> Tensor:
    """Sums the attention that a prompt gives to each of the newest `count` tokens, over layers, heads and queries."""
    total = torch.zeros(count, device=after.model.device)
    behind: Counter[int] = Counter()  # tokens of the prompt that each layer has read: a long one takes several steps

    def observe(layer: int, query: Tensor, mass: Tensor, key: Tensor) -> None:
        behind[layer] += query.shape[2]
        keys = key[0, :, -count - behind[layer] : -behind[layer], :].transpose(1, 2)  # [G, D, count]
        logits = query[0].reshape(len(keys), -1, query.shape[3]) @ keys - mass[0].reshape(len(keys), -1, 1)
        total.add_(logits.exp().sum((0, 1)))

    after.fork().feed(prompt, observer=observe)
    return total + 1e-6


def _last(mask: Tensor, count: int) -> Tensor:
    return mask[-count:]


def _visible(pool: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """Returns pooling rows over the tokens that a layer still holds; blocks of which it holds nothing have no row."""
    held = seen >= 0
    part = pool[:, held]
    part = part[part.sum(1) > 0]
    return part / part.sum(1, keepdim=True), seen[held]
