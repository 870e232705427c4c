"""Learns the bases of `storage=coded` (`model/state_bases.py`) for one model, from a few windows of sessions.

In each head, keys and values are turned so that their numbers are uncorrelated where an error is measured as the model
reads it. Of a key that is the error of the logits of queries behind it; of a value, the error of the residual stream
beside the stream's own size. The finest step is an error of `FINEST` in either measure.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from holdfast.engine.kv_context import KVContext
from holdfast.engine.local import LocalEngine
from holdfast.errors import BadInput
from holdfast.methods.reference_queries import QueryRecorder
from holdfast.model.readout import output_projection, watch_residual
from holdfast.model.state_bases import RowBasis, StateBases
from holdfast.progress import Progress, quiet

WINDOW, WINDOWS = 1024, 32  # tokens; windows
APART = 2  # windows of a session stand so many windows apart
LEAST = 2048  # tokens to learn from
FINEST = (0.1, 0.004)  # of keys, in logits; of values, in the residual stream's own size
RIDGE = 0.02  # of the mean of a metric, added to its diagonal: no direction is free


@dataclass
class _Layer:
    """Rows of all windows, and their queries, which measure an error. G heads."""

    keys: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)
    queries: list[Tensor] = field(default_factory=list)
    """`[G, D, D]` a window: mean outer product of queries, turned back by the positions of keys before them."""


def learn_bases(
    streams: Sequence[Sequence[int]],
    engine: LocalEngine,
    windows: int = WINDOWS,
    window: int = WINDOW,
    progress: Progress = quiet,
) -> StateBases:
    """Returns the bases learned from at most `windows` windows of `streams`, which are token ids of sessions.

    Raises BadInput where they hold fewer than `LEAST` tokens.
    """
    drawn = list(_draw(streams, windows, window))
    tokens = sum(map(len, drawn))
    if tokens < LEAST:
        raise BadInput(f"bases need at least {LEAST:,} tokens to learn from, got {tokens:,}; give more sessions")
    layers = [_Layer() for _ in engine.model.family.layers]
    generator = torch.Generator().manual_seed(0)
    with watch_residual(engine.model) as residual:
        for number, ids in enumerate(drawn):
            progress("read", number, len(drawn), "")
            _add_window(layers, ids, engine, generator)
    progress("read", len(drawn), len(drawn), "")
    made = {
        n: _solve(engine, n, layer, sum(size) / len(size))
        for n, (layer, size) in enumerate(zip(layers, residual, strict=True))
    }
    return StateBases(engine.model.digest, made, {"tokens": tokens, "windows": len(drawn), "window": window})


def _draw(streams: Sequence[Sequence[int]], windows: int, window: int) -> Iterator[list[int]]:
    """Yields windows of all streams in turn, so that every session has its part."""
    cuts = [[list(ids[at : at + window]) for at in range(0, len(ids), APART * window)] for ids in streams]
    rounds = [cut[n] for n in range(max(map(len, cuts), default=0)) for cut in cuts if n < len(cut)]
    yield from [ids for ids in rounds if len(ids) > 1][:windows]


def _add_window(layers: list[_Layer], ids: list[int], engine: LocalEngine, generator: torch.Generator) -> None:
    record = QueryRecorder()
    _, states = engine.capture(KVContext(engine.model), torch.tensor(ids), observer=record)
    family = engine.model.family
    for n, (layer, facts) in enumerate(zip(layers, family.layers, strict=True)):
        layer.keys.append(states.keys[n].float())  # [G, T, D]
        layer.values.append(states.values[n].float())
        queries = record.queries[n].float()  # [H, Q, D], rotated and scaled
        positions = torch.arange(queries.shape[1], dtype=torch.float32)
        reach = positions + 1 if facts.window is None else positions.clamp(max=facts.window - 1) + 1
        back = positions - (torch.rand(len(positions), generator=generator) * reach).floor()  # a key that it sees
        turned = facts.rope.unrotate(queries, back.expand(queries.shape[:2]))
        rows = turned.reshape(family.kv_heads, -1, turned.shape[-1])  # [G, H / G * Q, D]
        layer.queries.append(rows.mT @ rows / rows.shape[1])


def _solve(engine: LocalEngine, layer: int, sums: _Layer, residual: float) -> tuple[RowBasis, RowBasis]:
    """Returns the bases of a layer's keys and values."""
    weight = output_projection(engine.model, layer)  # [H, d, D]
    errors = weight.mT @ weight  # [H, D, D]
    per_head = errors.view(engine.model.family.kv_heads, -1, *errors.shape[1:]).sum(1)  # [G, D, D]
    of_values = per_head / (residual * weight.shape[1])
    of_keys = torch.stack(sums.queries).mean(0)
    parts = ((sums.keys, of_keys), (sums.values, of_values))
    made = [_turn(torch.cat(rows, 1), metric, finest) for (rows, metric), finest in zip(parts, FINEST, strict=True)]
    return made[0], made[1]


def _turn(rows: Tensor, metric: Tensor, finest: float) -> RowBasis:
    """Returns the basis of `rows [G, T, D]` in which an error e costs e' `metric [G, D, D]` e."""
    mean = rows.mean(1)  # [G, D]
    rest = (rows - mean[:, None]).double()
    spread = rest.mT @ rest / rest.shape[1]  # [G, D, D]
    size = metric.diagonal(dim1=1, dim2=2).mean(1)[:, None, None].double()
    sizes, turns = torch.linalg.eigh(metric.double() + RIDGE * size * torch.eye(rows.shape[2], dtype=torch.float64))
    root = turns * sizes.clamp_min(1e-12).sqrt()[:, None] @ turns.mT
    variances, axes = torch.linalg.eigh(root @ spread @ root)
    forward = (root @ axes / finest).float()
    return RowBasis(
        mean, forward, torch.linalg.inv(forward.double()).float(), variances.clamp_min(0).sqrt().float() / finest
    )
