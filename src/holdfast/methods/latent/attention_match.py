"""Attention matching: kept slots are given the mass and the values of what was dropped (Zweiger et al.,
https://arxiv.org/abs/2602.16284), so that reference queries find the same output and the same log-mass as before.

Per head, with X the attention of the queries over the kept slots: a bounded bias by non-negative least squares on the
span's mass, then values by least squares on its output, pulled towards the plain ones. How strong the pull is, and
whether bias and new values are used at all, is decided on queries that the fit has not seen: a head that does not gain
stays as it was. Cost: a second pass of reference queries and one small solve a head. Serves every family.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from holdfast.context.budget import Budget
from holdfast.context.segments import Segment
from holdfast.context.surgery import keep_pairs
from holdfast.engine.kv_context import KVContext
from holdfast.engine.local import LocalEngine
from holdfast.errors import BadOption
from holdfast.methods import eviction
from holdfast.methods.base import Span
from holdfast.methods.inner_methods import build_inner_eviction
from holdfast.methods.per_head import LOG_BOUND, HeadSlots, build_segment, pay_for_bias, select_pairs
from holdfast.methods.query_batch import QueryBatch, attend, attention_error, sample_queries
from holdfast.methods.reference_queries import SpanPrefill, check_query_options
from holdfast.progress import Progress, quiet

PULLS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # of the mean power of a slot's attention; tried on the held-out queries
SELECTORS = ("base", "rms", "omp")
AT_ONCE = 4  # keys that a round of OMP adds
ROUNDS = 60  # of projected gradient


Errors = tuple[float, float, bool]
"""A head's error before and after, and whether it stayed as it was."""


class Study(NamedTuple):
    """The state of a span before a budget is chosen."""

    base: eviction.Study
    batches: dict[int, QueryBatch]
    report: dict[str, float]
    """Filled by `compress` for the latest budget: `heads`, how many stayed `plain`, and the mean held-out `deviation`
    `before` and `after`."""

    @property
    def prefill(self) -> SpanPrefill:
        return self.base.prefill

    @property
    def span(self) -> Span:
        return self.base.span

    @property
    def scores(self) -> dict[int, Tensor]:
        return self.base.scores

    def with_scores(self, scores: dict[int, Tensor]) -> Study:
        """Returns the study with other scores."""
        return Study(self.base.with_scores(scores), self.batches, {})


class Fit(NamedTuple):
    """One way to fill a head's slots."""

    values: Tensor
    bias: Tensor | None
    error: float
    """On queries that it was not fitted to."""


@dataclass(frozen=True)
class AttentionMatch:
    """Keeps KV pairs and fits their mass and values to what the whole span gave."""

    base: str = "informed"
    """The method that scores the pairs, and allocates them to heads: `kvzip` or `informed(allocation=head)`."""
    select: str = "base"
    """Choice of the pairs of a head that stay: the best of `base`, of root-mean-square attention (`rms`), or by pursuit
    (`omp`)."""
    queries: str = "repeat+own"
    """Reference queries: repeat, own, later, study, random, or several joined by `+`."""
    most: int = 1024
    """Queries per KV head, all sources together."""
    gain: bool = True
    """True if a repeat's queries count by the nats that the span saves there."""
    bias: bool = True
    """True if slots carry the log-mass of what they stand for; costs a number a slot, paid in slots."""
    bound: float = LOG_BOUND
    """Largest bias, in nats, up and down."""
    values: bool = True
    """True if values are fitted."""
    pull: float = 0.0
    """Pull towards the plain values, in parts of the mean power; 0 tries several on the held-out queries."""
    held: float = 0.25
    """Share of the queries that are held out; 0 trusts every fit."""

    name: ClassVar[str] = "attention_match"
    by_turn: ClassVar[bool] = False

    def __post_init__(self) -> None:
        build_inner_eviction(self.name, "base", self.base)
        check_query_options(self.name, self.queries, 1, 0)
        if self.select not in SELECTORS:
            raise BadOption(f"{self.name}: select must be one of {', '.join(SELECTORS)}, got {self.select!r}")
        if self.most < 1 or not 0 <= self.held <= 0.5:
            raise BadOption(f"{self.name}: needs most of at least 1 query and held between 0 and 0.5")
        if not 0 < self.bound < 20 or not 0 <= self.pull < math.inf:
            raise BadOption(f"{self.name}: needs bound between 0 and 20 nats and pull of at least 0")

    @torch.no_grad()
    def study(self, span: Span, past: KVContext, engine: LocalEngine, progress: Progress = quiet) -> Study:
        base = build_inner_eviction(self.name, "base", self.base).study(span, past, engine, progress)
        return Study(base, sample_queries(base.prefill, self.queries, self.most, self.held, self.gain), {})

    @torch.no_grad()
    def compress(self, study: Study, budget: Budget, progress: Progress = quiet) -> tuple[Segment, ...]:
        prefill, states = study.base.prefill, study.base.prefill.states
        ranked = build_inner_eviction(self.name, "base", self.base).rank(study.base.scores, budget)
        chosen = study.base.allocation.choose(ranked, budget.slots)
        study.report.clear()
        if budget.holds(len(study.span)):
            every = [chosen.get(layer) for layer in range(len(states.keys))]
            return (keep_pairs(states, every, study.span.origins, study.base.scores),)
        if self.bias:
            chosen = pay_for_bias(chosen, ranked, budget, states)
        heads: dict[int, list[HeadSlots]] = {}
        errors: list[Errors] = []
        for done, (layer, masks) in enumerate(chosen.items()):
            progress("match", done, len(chosen), "")
            rope, heads[layer] = prefill.engine.model.family.layers[layer].rope, []
            for g in range(masks.shape[0]):
                one, keys = study.batches[layer].select_heads(g), prefill.keys(layer)[g].float()
                mask = self._select_pairs(one, keys, masks[g])
                head = select_pairs(states, layer, g, mask, study.base.scores[layer][g])
                if len(head):
                    rotated = rope.rotate(head.keys.float(), head.positions)
                    head, error = self._fit_head(one, head, rotated)
                    errors.append(error)
                heads[layer].append(head)
        study.report.update(summarize_errors(errors))
        return (build_segment(states, heads, study.span.origins),)

    def _select_pairs(self, one: QueryBatch, keys: Tensor, mask: Tensor) -> Tensor:
        """Returns a mask of as many pairs of a head as `mask [T]` has, chosen by its queries."""
        if self.select == "base" or not mask.any():
            return mask
        logits = one.queries @ keys.T  # [N, T]
        weight = one.weight * one.span_share**2  # [N]
        out = torch.zeros_like(mask)
        if self.select == "rms":
            score = (weight[:, None] * (logits - one.mass[:, None]).exp() ** 2).sum(0)  # [T]
            out[score.argsort(descending=True, stable=True)[: int(mask.sum())]] = True
        else:
            out[pursue_columns((logits - one.mass[:, None]).exp(), weight, int(mask.sum()), self.bound)] = True
        return out

    def _fit_head(self, one: QueryBatch, head: HeadSlots, keys: Tensor) -> tuple[HeadSlots, Errors]:
        """Returns the head with the bias and values that do best on held-out queries, and both errors."""
        learn, judge = one.split_held_out()
        biases = [None] + ([fit_bias(learn, keys, self.bound)] if self.bias else [])
        fits = [fit for bias in biases for fit in self._fit_candidates(learn, judge, head, keys, bias)]
        plain, best = fits[0], min(fits, key=lambda fit: fit.error)
        if not self.held:  # trusted: the last is the one with everything that was asked for
            best = fits[-1]
        made = replace(head, values=best.values, bias=best.bias)
        return made, (plain.error, best.error, best is plain)

    def _fit_candidates(
        self, learn: QueryBatch, judge: QueryBatch, head: HeadSlots, keys: Tensor, bias: Tensor | None
    ) -> list[Fit]:
        candidates = [head.values.float()]
        if self.values:
            candidates += fit_values(learn, keys, head.values.float(), bias, (self.pull,) if self.pull else PULLS[::-1])
        attention, mass = attend(judge, keys, bias)  # [N, n], [N]
        return [Fit(v, bias, float(attention_error(judge, attention @ v, mass))) for v in candidates]


def summarize_errors(errors: list[Errors]) -> dict[str, float]:
    """Returns the evidence of a fit: the mean error of the heads before and after, and the count that stayed plain."""
    n = max(1, len(errors))
    return {
        "heads": len(errors),
        "plain": sum(plain for *_, plain in errors),
        "before": round(sum(before for before, *_ in errors) / n, 4),
        "after": round(sum(after for _, after, _ in errors) / n, 4),
    }


def fit_bias(one: QueryBatch, keys: Tensor, bound: float) -> Tensor:
    """Fits biases `[n]` within `bound` nats under which rotated `keys [n, D]` have the span's mass for each query."""
    parts = (one.queries @ keys.T - one.mass[:, None]).exp()  # [N, n]
    return solve_bounded(parts, one.weight * one.span_share**2, bound).log().float()


def solve_bounded(parts: Tensor, weight: Tensor, bound: float) -> Tensor:
    """Solves for `w [n]`, `exp(-bound)` to `exp(bound)`, such that `parts [N, n] @ w` is near 1: accelerated projected
    gradient from 1, in float64, which nothing rank-deficient can throw off."""
    a = parts.double() * weight.double().clamp_min(0).sqrt()[:, None]  # [N, n]
    gram, aim = a.T @ a, a.T @ weight.double().sqrt()  # [n, n], [n]
    step = 1 / torch.linalg.matrix_norm(gram, ord=1).clamp_min(1e-300)
    w = ahead = torch.ones_like(aim)
    pace = 1.0
    for _ in range(ROUNDS):
        new = (ahead - step * (gram @ ahead - aim)).clamp(math.exp(-bound), math.exp(bound))
        quicker = (1 + math.sqrt(1 + 4 * pace**2)) / 2
        ahead, w, pace = new + (pace - 1) / quicker * (new - w), new, quicker
    return w


def fit_values(
    one: QueryBatch, keys: Tensor, values: Tensor, bias: Tensor | None, pulls: tuple[float, ...]
) -> list[Tensor]:
    """Fits values `[n, D]` that give the span's output, once for each strength of the pull towards `values`."""
    attention, _ = attend(one, keys, bias)  # [N, n]
    weight = (one.weight * one.span_share**2).double()[:, None]  # [N, 1]
    x = attention.double()
    gram = (weight * x).T @ x  # [n, n]
    aim = (weight * x).T @ (one.output.double() - x @ values.double())  # [n, D]
    power = gram.diagonal().mean().clamp_min(1e-300)
    eye = torch.eye(len(gram), dtype=torch.float64, device=gram.device)
    out = []
    for pull in pulls:
        lower, failed = torch.linalg.cholesky_ex(gram + pull * power * eye)
        if not int(failed):
            out.append((values.double() + torch.cholesky_solve(aim, lower)).float())
    return out


def pursue_columns(parts: Tensor, weight: Tensor, count: int, bound: float) -> Tensor:
    """Picks `count` columns of `parts [N, T]` whose weighted sum is nearest to 1, a few at a time; returns indices."""
    chosen = torch.empty(0, dtype=torch.int64, device=parts.device)
    left = torch.ones_like(weight)
    while len(chosen) < count:
        worth = (weight * left) @ parts  # [T]
        worth[chosen] = -torch.inf
        chosen = torch.cat((chosen, worth.topk(min(AT_ONCE, count - len(chosen))).indices))
        left = 1 - parts[:, chosen] @ solve_bounded(parts[:, chosen], weight, bound).float()
    return chosen
