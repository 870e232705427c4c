"""Spans full of facts on a tiny model, for what passes the gate."""

from __future__ import annotations

import torch

from holdfast.blocks.block import Block, Kind, Origin
from holdfast.blocks.render import render
from holdfast.compaction.partition import parts, spans
from holdfast.compaction.plan import Policy
from holdfast.context.budget import budget_from_ratio
from holdfast.context.segment_tensors import name_tensors
from holdfast.context.segments import StateSegment
from holdfast.engine.kv_context import KVContext
from holdfast.gate.latent.gate import GatedSpan, LatentReport, compress_through_gate
from holdfast.methods.base import Span
from holdfast.methods.registry import build

TEXT = (
    "cat src/app.py\nPORT = 8123\nerror: no such file /var/log/x.log\nv2.13.7 of https://a.example/b?c=1 at 10.0.0.9\n"
)
HEAD = "You edit code."


def past_of(engine, text=HEAD):
    """A memory that has read `text`."""
    live = KVContext(engine.model)
    if text:
        with torch.no_grad():
            live.feed(engine.model.tokenizer(text, add_special_tokens=False)["input_ids"])
    return live


def span_of(engine, start, text=TEXT):
    """One tool result."""
    ids = tuple(engine.model.tokenizer(text, add_special_tokens=False)["input_ids"])
    return Span((Block(ids, Origin(3, Kind.OBSERVATION, (0, len(text)), (start, start + len(ids)))),), start)


def middle(engine, session):
    """The longest compacted span of a session."""
    cut = parts(session, render(session, engine.model.tokenizer), Policy())
    return max((span for part in cut for span in spans(part, by_turn=False)), key=len)


def work_of(engine, latent, ratio, head=HEAD, text=TEXT):
    """A studied span on its way through the gate."""
    past = past_of(engine, head)
    span, method = span_of(engine, past.next_position, text), build(latent)
    study = method.study(span, past, engine)
    return GatedSpan(method, study, budget_from_ratio(len(span), ratio), span, past, engine)


def gated(gate, work):
    """Segments and report of one span."""
    report = LatentReport(gate.threshold)
    segments = compress_through_gate(gate, work, report)
    report.measure_skills(work.engine)
    return segments, report


def same(one, two):
    """Whether two contexts or lists of segments hold the same bytes."""
    tensors = [name_tensors(x) for x in (one, two)]
    return [n for n, _ in tensors[0]] == [n for n, _ in tensors[1]] and all(
        torch.equal(a, b) for (_, a), (_, b) in zip(*tensors, strict=True)
    )


def pairs_in(segments, family):
    """KV pairs that segments put into the full layers."""
    held = 0
    for segment in segments:
        if isinstance(segment, StateSegment):
            held += sum(sum(segment.layers[layer].lengths) for layer in family.full)
        else:
            held += len(segment) * len(family.full) * family.kv_heads
    return held


def snapshot(live):
    """What a memory holds, copied."""
    held = [x for row in live.cache.layers for x in (row.keys, row.values, row.positions, row.slots, *row.quantized)]
    return live.next_position, live.nbytes, [x.clone() if isinstance(x, torch.Tensor) else x for x in held]


def unchanged(live, before):
    """Whether a memory is as it was."""
    now = snapshot(live)
    return now[:2] == before[:2] and all(
        torch.equal(a, b) if isinstance(a, torch.Tensor) else a is b for a, b in zip(now[2], before[2], strict=True)
    )
