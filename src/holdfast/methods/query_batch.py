"""Query batches: a bounded sample of reference queries, and the whole span's answers, which a head is fitted to.

Queries look at the past, the span and themselves; the targets are the output and the log-mass of the span alone, so
that a head that meets both is right under any other context (Zweiger et al., https://arxiv.org/abs/2602.16284,
section 3). How much of a query's attention the span had weighs its errors.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from holdfast.methods.reference_queries import ReferenceQueries, SpanPrefill, reference_queries
from holdfast.methods.surprisal_weight import query_weight

LOGITS = 1 << 22  # float32 logits over the span that exist at one time
RUN = 16  # neighbouring queries that are held out together: they ask alike


class QueryBatch(NamedTuple):
    """The reference queries of one head and their targets. In a layer's sample every field but the last has `[G]`
    in front."""

    queries: Tensor
    """`[N, D]` float32, rotated and scaled."""
    output: Tensor
    """`[N, D]`: what attention over the span alone gives."""
    mass: Tensor
    """`[N]`: log-sum-exp of the span."""
    rest: Tensor
    """`[N]`: log-sum-exp of everything else that the query looked at."""
    weight: Tensor
    """`[N]`: what the query counts."""
    held_out: Tensor
    """`[N]` bool: not fitted, but asked whether the fit holds."""

    def select_heads(self, index: int | list[int]) -> QueryBatch:
        """Returns the queries of one head of a layer, or of several."""
        queries, output, mass, rest, weight, held = self
        return QueryBatch(queries[index], output[index], mass[index], rest[index], weight[index], held)

    def select(self, mask: Tensor) -> QueryBatch:
        """Returns the queries where `mask [N]` is True, for every head of a layer."""
        queries, output, mass, rest, weight, held = self
        return QueryBatch(
            queries[..., mask, :], output[..., mask, :], mass[..., mask], rest[..., mask], weight[..., mask], held[mask]
        )

    def split_held_out(self) -> tuple[QueryBatch, QueryBatch]:
        """Returns the queries that are fitted and those that judge the fit; all for both if nothing is held out."""
        if bool(self.held_out.all()) or not bool(self.held_out.any()):
            return self, self
        return self.select(~self.held_out), self.select(self.held_out)

    @property
    def span_share(self) -> Tensor:
        """`[N]`: the part of its attention that a query gave to the span."""
        return torch.sigmoid(self.mass - self.rest)


class _SourceSample(NamedTuple):
    """The queries of one source that were drawn so far, `[H, n, D]` and `[H, n]` per layer, the rest per query."""

    queries: dict[int, Tensor]
    rest: dict[int, Tensor]
    gain: Tensor
    run: Tensor
    rank: Tensor


@torch.no_grad()
def sample_queries(
    prefill: SpanPrefill, queries: str, most: int, held: float = 0.25, gain: bool = True, chunk: int = 256
) -> dict[int, QueryBatch]:
    """Samples at most `most` queries a KV head, equally many of each source, with the span's answer to each.

    A share `held` is set apart, run by run. With `gain` a repeat's queries count by the nats that the span saves there.
    Memory does not grow with the span beyond its own states.
    """
    sources = queries.split("+")
    group = prefill.engine.model.family.heads // prefill.engine.model.family.kv_heads
    drawn = [_sample_source(prefill, source, max(1, most // group // len(sources)), chunk) for source in sources]
    weight = torch.cat([_surprisal_weights(d.gain) if gain else torch.ones_like(d.gain) for d in drawn])
    apart = torch.cat([_hold_out_runs(d.run, held) for d in drawn])
    return {layer: _compute_targets(prefill, layer, drawn, weight, apart) for layer in prefill.layers}


def _sample_source(prefill: SpanPrefill, source: str, most: int, chunk: int = 256) -> _SourceSample:
    """Samples `most` queries of a source, each equally likely; memory holds no more than them and one pass."""
    noise, out, seen = torch.Generator().manual_seed(0), None, 0
    for one in reference_queries(prefill, source, chunk):
        count = len(one.predicts_fact)
        fresh = _SourceSample(
            {}, {}, one.nats("surprisal"), torch.arange(seen, seen + count) // RUN, torch.rand(count, generator=noise)
        )
        keep = torch.cat(([out.rank] if out else []) + [fresh.rank]).argsort(stable=True)[:most].sort().values
        seen, old = seen + count, 0 if out is None else len(out.rank)
        mine, theirs = keep[keep >= old] - old, keep[keep < old]
        for layer in prefill.layers:
            fresh.queries[layer], fresh.rest[layer] = _select_queries(prefill, one, layer, mine)
        out = _merge_samples(out, theirs, fresh, mine)
    assert out is not None
    return out


def _merge_samples(old: _SourceSample | None, theirs: Tensor, new: _SourceSample, mine: Tensor) -> _SourceSample:
    kept = _SourceSample(new.queries, new.rest, new.gain[mine], new.run[mine], new.rank[mine])
    if old is None:
        return kept
    return _SourceSample(
        {layer: torch.cat((old.queries[layer][:, theirs], x), 1) for layer, x in kept.queries.items()},
        {layer: torch.cat((old.rest[layer][:, theirs], x), 1) for layer, x in kept.rest.items()},
        *(torch.cat((a[theirs], b)) for a, b in zip(old[2:], kept[2:], strict=True)),
    )


def _select_queries(prefill: SpanPrefill, one: ReferenceQueries, layer: int, mine: Tensor) -> tuple[Tensor, Tensor]:
    """Returns some queries of a pass, `[H, n, D]`, and the log-mass of what they saw beside the span, `[H, n]`.

    The span's own queries are moved behind it, where a repeat would ask them and no token is hidden.
    """
    query, mass = one.recorder.queries[layer][:, mine].float(), one.recorder.mass[layer][:, mine]
    keys = prefill.keys(layer)[:, one.visible].float()  # [G, V, D]
    grouped = query.reshape(len(keys), -1, query.shape[2])  # [G, H/G n, D]
    logits = (grouped @ keys.mT).view(*query.shape[:2], keys.shape[1])  # [H, n, V]
    if one.first_token is not None:
        at = one.first_token + mine.to(keys.device)
        logits.masked_fill_(torch.arange(logits.shape[2], device=at.device) > at[:, None], -torch.inf)
        rope, positions = prefill.engine.model.family.layers[layer].rope, prefill.span.start + at.float()
        query = rope.move(query, positions, positions + len(prefill.span))
    outside = torch.log1p(-(logits.logsumexp(-1) - mass).exp().clamp(max=1 - 1e-6))  # [H, n]
    return query, mass + outside


def _compute_targets(
    prefill: SpanPrefill, layer: int, drawn: list[_SourceSample], weight: Tensor, apart: Tensor
) -> QueryBatch:
    keys, values = prefill.keys(layer).float(), prefill.states.values[layer].float()
    G = keys.shape[0]
    query = torch.cat([d.queries[layer] for d in drawn], 1)  # [H, n, D]
    rest = torch.cat([d.rest[layer] for d in drawn], 1).view(G, -1)  # [G, N]
    group = query.shape[0] // G
    query = query.reshape(G, -1, keys.shape[2])  # [G, N, D]
    output, mass = torch.empty_like(query), torch.empty_like(rest)
    for rows in row_slices(query.shape[1], keys.shape[1]):
        for g in range(G):
            logits = query[g, rows] @ keys[g].T  # [rows, T]
            mass[g, rows] = logits.logsumexp(-1)
            output[g, rows] = logits.softmax(-1) @ values[g]
    weights = weight.to(query).repeat(group).expand(G, -1)  # [G, N]
    return QueryBatch(query, output, mass, rest, weights, apart.to(query.device).repeat(group))


def row_slices(rows: int, columns: int) -> Iterator[slice]:
    """Yields slices of rows whose logits may be in memory at one time."""
    step = max(1, LOGITS // max(1, columns))
    yield from (slice(at, at + step) for at in range(0, rows, step))


def _surprisal_weights(gain: Tensor) -> Tensor:
    """Returns weights by surprisal, or ones for a source that does not know its gain."""
    return query_weight(gain).sqrt() if bool(gain.any()) else torch.ones_like(gain)


def _hold_out_runs(run: Tensor, held: float) -> Tensor:
    """Returns a mask of the queries that are held out: whole runs, evenly over the source."""
    return ((run + 1) * held).floor() > (run * held).floor()


def attend(one: QueryBatch, keys: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Returns attention over rotated `keys [..., n, D]` alone, `[..., N, n]`, and its log-mass `[..., N]`."""
    logits = one.queries @ keys.mT  # [..., N, n]
    if bias is not None:
        logits = logits + bias[..., None, :]
    return logits.softmax(-1), logits.logsumexp(-1)


def attention_error(one: QueryBatch, output: Tensor, mass: Tensor) -> Tensor:
    """Returns the squared error of what a head adds to the attention output, relative to the span: 0 is exact, 1 is as
    bad as nothing. `output [..., N, D]` and `mass [..., N]` are the compacted head's; all else counts as zeros."""
    ours = torch.sigmoid(mass - one.rest)[..., None] * output  # [..., N, D]
    target = one.span_share[..., None] * one.output
    weight = one.weight[..., None]  # [..., N, 1]
    return (weight * (ours - target) ** 2).sum((-2, -1)) / (weight * target**2).sum((-2, -1)).clamp_min(1e-12)


def output_and_mass_error(one: QueryBatch, output: Tensor, mass: Tensor) -> tuple[Tensor, Tensor]:
    """Returns two errors that hold under any other context: the relative squared one of the output and the mean squared
    error of the log-mass, queries weighing by the share that the span has of them."""
    weight = one.weight * one.span_share**2  # [..., N]
    lost = (weight[..., None] * (output - one.output) ** 2).sum((-2, -1))
    whole = (weight[..., None] * one.output**2).sum((-2, -1)).clamp_min(1e-12)
    return lost / whole, (weight * (mass - one.mass) ** 2).sum(-1) / weight.sum(-1).clamp_min(1e-12)
