"""What a compacted head is fitted to: a bounded sample of reference queries, and what the whole span answers them.

Queries look at the past, the span and themselves; the targets are the output and the log-mass of the span alone, so
that a head that meets both is right under any other context (Zweiger et al., https://arxiv.org/abs/2602.16284,
section 3). How much of a query's attention the span had weighs its errors.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from holdfast.methods.reference_queries import Asked, Reading, asked

LOGITS = 1 << 22  # float32 logits over the span that exist at one time
RUN = 16  # neighbouring queries that are held out together: they ask alike
GAIN = 3.0  # nats at which a query has full weight
LEAST = 0.02  # weight (before the root) of a query that learns nothing


class Sample(NamedTuple):
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
    held: Tensor
    """`[N]` bool: not fitted, but asked whether the fit holds."""

    def heads(self, index: int | list[int]) -> Sample:
        """One head of a layer's sample, or several."""
        queries, output, mass, rest, weight, held = self
        return Sample(queries[index], output[index], mass[index], rest[index], weight[index], held)

    def where(self, mask: Tensor) -> Sample:
        """Some of the queries, `mask [N]`; of a layer's sample for every head."""
        queries, output, mass, rest, weight, held = self
        return Sample(
            queries[..., mask, :], output[..., mask, :], mass[..., mask], rest[..., mask], weight[..., mask], held[mask]
        )

    def halves(self) -> tuple[Sample, Sample]:
        """What is fitted and what judges the fit; all of it for both where nothing is held out."""
        if bool(self.held.all()) or not bool(self.held.any()):
            return self, self
        return self.where(~self.held), self.where(self.held)

    @property
    def share(self) -> Tensor:
        """`[N]`: the part of its attention that a query gave to the span."""
        return torch.sigmoid(self.mass - self.rest)


class _Drawn(NamedTuple):
    """The queries of one source that were drawn so far, `[H, n, D]` and `[H, n]` per layer, the rest per query."""

    queries: dict[int, Tensor]
    rest: dict[int, Tensor]
    gain: Tensor
    run: Tensor
    rank: Tensor


@torch.no_grad()
def sample(
    read: Reading, queries: str, most: int, held: float = 0.25, gain: bool = True, chunk: int = 256
) -> dict[int, Sample]:
    """At most `most` queries a KV head, equally many of each source in `queries`, with what the span answers them.

    A share `held` is set apart, run by run. With `gain` a repeat's queries count by the nats that the span saves there.
    Memory does not grow with the span beyond its own states.
    """
    sources = queries.split("+")
    group = read.engine.model.family.heads // read.engine.model.family.kv_heads
    drawn = [_draw(read, source, max(1, most // group // len(sources)), chunk) for source in sources]
    weight = torch.cat([_weight(d.gain) if gain else torch.ones_like(d.gain) for d in drawn])
    apart = torch.cat([_apart(d.run, held) for d in drawn])
    return {layer: _answered(read, layer, drawn, weight, apart) for layer in read.layers}


def _draw(read: Reading, source: str, most: int, chunk: int = 256) -> _Drawn:
    """`most` queries of a source, each equally likely; no more than them and one pass are ever held."""
    noise, out, seen = torch.Generator().manual_seed(0), None, 0
    for one in asked(read, source, chunk):
        count = len(one.fact)
        fresh = _Drawn(
            {}, {}, one.worth("surprisal"), torch.arange(seen, seen + count) // RUN, torch.rand(count, generator=noise)
        )
        keep = torch.cat(([out.rank] if out else []) + [fresh.rank]).argsort(stable=True)[:most].sort().values
        seen, old = seen + count, 0 if out is None else len(out.rank)
        mine, theirs = keep[keep >= old] - old, keep[keep < old]
        for layer in read.layers:
            fresh.queries[layer], fresh.rest[layer] = _asking(read, one, layer, mine)
        out = _joined(out, theirs, fresh, mine)
    assert out is not None
    return out


def _joined(old: _Drawn | None, theirs: Tensor, new: _Drawn, mine: Tensor) -> _Drawn:
    kept = _Drawn(new.queries, new.rest, new.gain[mine], new.run[mine], new.rank[mine])
    if old is None:
        return kept
    return _Drawn(
        {layer: torch.cat((old.queries[layer][:, theirs], x), 1) for layer, x in kept.queries.items()},
        {layer: torch.cat((old.rest[layer][:, theirs], x), 1) for layer, x in kept.rest.items()},
        *(torch.cat((a[theirs], b)) for a, b in zip(old[2:], kept[2:], strict=True)),
    )


def _asking(read: Reading, one: Asked, layer: int, mine: Tensor) -> tuple[Tensor, Tensor]:
    """Some queries of a pass, `[H, n, D]`, and the log-mass of what they saw beside the span, `[H, n]`.

    The span's own queries are moved behind it, where a repeat would ask them and no token is hidden.
    """
    query, mass = one.record.queries[layer][:, mine].float(), one.record.mass[layer][:, mine]
    keys = read.keys(layer)[:, one.seen].float()
    logits = (query.reshape(len(keys), -1, query.shape[2]) @ keys.mT).view(*query.shape[:2], keys.shape[1])
    if one.first is not None:
        at = one.first + mine.to(keys.device)
        logits.masked_fill_(torch.arange(logits.shape[2], device=at.device) > at[:, None], -torch.inf)
        rope, positions = read.engine.model.family.layers[layer].rope, read.span.start + at.float()
        query = rope.move(query, positions, positions + len(read.span))
    outside = torch.log1p(-(logits.logsumexp(-1) - mass).exp().clamp(max=1 - 1e-6))
    return query, mass + outside


def _answered(read: Reading, layer: int, drawn: list[_Drawn], weight: Tensor, apart: Tensor) -> Sample:
    keys, values = read.keys(layer).float(), read.states.values[layer].float()
    G = keys.shape[0]
    query = torch.cat([d.queries[layer] for d in drawn], 1)
    rest = torch.cat([d.rest[layer] for d in drawn], 1).view(G, -1)
    group = query.shape[0] // G
    query = query.reshape(G, -1, keys.shape[2])
    output, mass = torch.empty_like(query), torch.empty_like(rest)
    for rows in pieces(query.shape[1], keys.shape[1]):
        for g in range(G):
            logits = query[g, rows] @ keys[g].T
            mass[g, rows] = logits.logsumexp(-1)
            output[g, rows] = logits.softmax(-1) @ values[g]
    weights = weight.to(query).repeat(group).expand(G, -1)
    return Sample(query, output, mass, rest, weights, apart.to(query.device).repeat(group))


def pieces(rows: int, columns: int) -> Iterator[slice]:
    """Rows of a matrix that may be in memory at one time."""
    step = max(1, LOGITS // max(1, columns))
    yield from (slice(at, at + step) for at in range(0, rows, step))


def _weight(gain: Tensor) -> Tensor:
    """Informed weights, where a source knows its gain."""
    return ((gain / GAIN).clamp(0, 1) + LEAST).sqrt() if bool(gain.any()) else torch.ones_like(gain)


def _apart(run: Tensor, held: float) -> Tensor:
    """Whole runs set apart, evenly over the source."""
    return ((run + 1) * held).floor() > (run * held).floor()


def attended(one: Sample, keys: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Attention of queries over rotated `keys [..., n, D]` alone, `[..., N, n]`, and its log-mass `[..., N]`."""
    logits = one.queries @ keys.mT
    if bias is not None:
        logits = logits + bias[..., None, :]
    return logits.softmax(-1), logits.logsumexp(-1)


def deviation(one: Sample, output: Tensor, mass: Tensor) -> Tensor:
    """Squared error of what a head adds to the attention output, relative to what the span adds: 0 is exact, and 1 as
    bad as nothing. `output [..., N, D]` and `mass [..., N]` are the compacted head's; all else counts as zeros."""
    ours = torch.sigmoid(mass - one.rest)[..., None] * output
    target = one.share[..., None] * one.output
    weight = one.weight[..., None]
    return (weight * (ours - target) ** 2).sum((-2, -1)) / (weight * target**2).sum((-2, -1)).clamp_min(1e-12)


def shortfall(one: Sample, output: Tensor, mass: Tensor) -> tuple[Tensor, Tensor]:
    """The same in two parts that hold under any other context: relative squared error of the output and mean squared
    error of the log-mass, queries weighing by the share that the span has of them."""
    weight = one.weight * one.share**2
    lost = (weight[..., None] * (output - one.output) ** 2).sum((-2, -1))
    whole = (weight[..., None] * one.output**2).sum((-2, -1)).clamp_min(1e-12)
    return lost / whole, (weight * (mass - one.mass) ** 2).sum(-1) / weight.sum(-1).clamp_min(1e-12)
