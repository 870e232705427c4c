"""Keys that no query looks at, so that padding costs room and nothing else.

vLLM's attention has no mask for single slots. But the queries of a head share a strong mean: where all of them lie on
one side of a plane through the origin, a key far out on the other side gets next to no attention. The plane with the
widest margin is the point of their convex hull that is nearest to the origin (Gilbert, https://doi.org/10.1137/0304007).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast.engine.kv_context import KVContext
from holdfast.errors import BadInput
from holdfast.methods.reference_queries import QueryRecorder
from holdfast.model.rope import Rope

CHOOSE = 384  # tokens whose queries choose the plane
MEASURE = 128  # tokens whose queries measure what still gets through
TURNS = 4  # distances at which each query is tried
STEPS = 300
FAR = 20.0  # nats between all padding of a head and all else that a query sees, or a logit of 0


@dataclass(frozen=True)
class PaddingKeys:
    """One layer's keys of padding."""

    keys: Tensor
    """`[G, D]`, rotated"""
    share: Tensor
    """`[G]`, the most attention that one slot of padding took of a query that had no part in choosing it."""


@dataclass(frozen=True)
class _RecordedQueries:
    queries: Tensor
    """`[G, n, D]`, rotated and scaled"""
    mass: Tensor
    """`[G, n]`, log-sum-exp of all that they see"""


def choose_padding_keys(live: KVContext, ids: list[int], most: int, reach: int) -> list[PaddingKeys]:
    """Returns, per layer, keys that may stand up to `most` times unseen by queries up to `reach` tokens further on.

    `ids` are read again behind the context for queries to choose by. Raises BadInput where they are too few, or where
    the queries of a head surround the origin.
    """
    choose, measure = ids[:CHOOSE], ids[CHOOSE : CHOOSE + MEASURE]
    if len(measure) < MEASURE:
        choose, measure = ids[: len(ids) * 3 // 4], ids[len(ids) * 3 // 4 :]
    if len(measure) < MEASURE // 8:
        raise BadInput(
            f"padding is chosen by the queries of tokens that stay verbatim, and the context has {len(ids)} of them; "
            f"keep at least {MEASURE // 2} (Policy), or compact with allocation=head"
        )
    layers, found = live.model.family.layers, []
    for index, (by, told) in enumerate(zip(_record_queries(live, choose), _record_queries(live, measure), strict=True)):
        rope = layers[index].rope
        queries, others = _rotate_further(by, rope, reach), _rotate_further(told, rope, reach)
        keys = _far_keys(queries, index, most)
        logits = (others.queries @ keys[..., None])[..., 0]
        found.append(PaddingKeys(keys, (logits - others.mass).amax(1).exp()))
    return found


def _record_queries(live: KVContext, ids: list[int]) -> list[_RecordedQueries]:
    """Returns, per layer, the queries of `ids` read behind the context, those of heads that share keys together."""
    G, record = live.model.family.kv_heads, QueryRecorder()
    live.fork().feed(ids, observer=record)
    return [
        _RecordedQueries(query.float().reshape(G, -1, query.shape[-1]), record.mass[layer].reshape(G, -1))
        for layer, query in sorted(record.queries.items())
    ]


def _rotate_further(asked: _RecordedQueries, rope: Rope, reach: int) -> _RecordedQueries:
    """Returns each query also as it would be further on, at distances of up to `reach` tokens."""
    n = asked.queries.shape[1]
    random = torch.Generator().manual_seed(0)
    away = [torch.zeros(n), *(torch.rand(n, generator=random) * reach for _ in range(TURNS - 1))]
    zero = torch.zeros(n, device=asked.queries.device)
    turned = [rope.move(asked.queries, zero, by.to(zero)) for by in away]
    return _RecordedQueries(torch.cat(turned, 1), asked.mass.repeat(1, TURNS))


def _far_keys(asked: _RecordedQueries, layer: int, most: int) -> Tensor:
    """Returns keys `[G, D]` on which every query's logit is `FAR` below its mass, `most` times over."""
    nearest = nearest_point(asked.queries)
    along = (asked.queries @ nearest[..., None])[..., 0]
    tight = along.amin(1) / nearest.norm(dim=1).clamp_min(1e-12)
    if bool((tight <= 1e-3).any()):
        raise BadInput(
            f"no key is far from all queries of layer {layer}, head {int(tight.argmin())}, so that it cannot be "
            "padded; compact with allocation=head"
        )
    depth = FAR + torch.tensor(float(most)).log() - asked.mass.clamp_max(0)
    return -nearest * (depth / along).amax(1)[:, None]


def nearest_point(points: Tensor) -> Tensor:
    """Approximates the point of the convex hull of `points [G, n, D]` nearest to the origin, `[G, D]`."""
    at = points.mean(1)
    rows = torch.arange(len(points), device=points.device)
    for _ in range(STEPS):
        lowest = points[rows, (points @ at[..., None])[..., 0].argmin(1)]
        step = lowest - at
        length = -(at * step).sum(1) / step.square().sum(1).clamp_min(1e-12)
        at = at + length.clamp(0, 1)[:, None] * step
    return at
