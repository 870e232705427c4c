"""Offline, once per model: which share of all pairs each head deserves.

A head's share is what one global threshold gives it, on average over calibration sessions and ratios. Scores that
cannot be compared between heads (SnapKV, key norms) may then spread a budget as a score that can be does.
Learned shares are the largest single ablation effect in Attention Matching (https://arxiv.org/abs/2602.16284).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from holdfast.blocks.block import Block, Kind, Origin
from holdfast.blocks.render import render
from holdfast.compaction.compact import ROOM
from holdfast.context.allocation import best
from holdfast.engine.kv_context import KVContext
from holdfast.engine.local import LocalEngine
from holdfast.errors import BadInput, BadOption
from holdfast.gate.latent.fact_tokens import build_fact_mask
from holdfast.methods.base import RankedStudy, Span
from holdfast.methods.registry import build
from holdfast.progress import Progress, quiet
from holdfast.transcript.turn import Transcript

RATIOS = (4.0, 8.0, 16.0, 32.0)


def calibrate(
    transcripts: Sequence[Transcript],
    engine: LocalEngine,
    method: str = "informed",
    window: int = 2048,
    limit: int = 8,
    progress: Progress = quiet,
) -> dict[int, list[float]]:
    """Returns per full-attention layer each head's share of all pairs; they sum to 1.

    Reads at most `limit` windows of `window` tokens, taken from the sessions in turn. Raises BadOption for a method
    that has no scores, and BadInput if no session fills a window.
    """
    window = min(window, engine.model.max_tokens - ROOM)
    if window < 64 or limit < 1:
        raise BadOption(f"calibration needs windows of at least 64 tokens and one of them, got {window} and {limit}")
    spans = _spans(transcripts, engine, window, limit)
    total = {
        layer: torch.zeros(engine.model.family.kv_heads, dtype=torch.float64) for layer in engine.model.family.full
    }
    for number, span in enumerate(spans):
        progress("calibrate", number, len(spans), "")
        study = build(method).study(span, KVContext(engine.model), engine)
        if not isinstance(study, RankedStudy):
            raise BadOption(f"{method} does not score KV pairs; calibrate with one that does, e.g. informed")
        heads = sum(s.shape[0] for s in study.scores.values())
        for ratio in RATIOS:
            pairs = max(1, int(len(span) / ratio)) * heads
            for layer, mask in best(study.scores, pairs).items():
                total[layer] += mask.sum(1).double().cpu() / (pairs * len(RATIOS) * len(spans))
    progress("calibrate", len(spans), len(spans), "")
    return {layer: row.tolist() for layer, row in total.items()}


def _spans(transcripts: Sequence[Transcript], engine: LocalEngine, window: int, limit: int) -> list[Span]:
    """Returns windows of the sessions, the first of each before the second of any."""
    pieces = []
    for number, transcript in enumerate(transcripts):
        ids = render(transcript, engine.model.tokenizer).ids
        pieces += [(at, number, ids[at : at + window]) for at in range(0, len(ids) - window + 1, window)]
    if not pieces:
        raise BadInput(f"no session has {window} tokens; give longer ones or a smaller --window")
    chosen = [ids for _, _, ids in sorted(pieces, key=lambda piece: piece[:2])[:limit]]
    blocks = [Block(ids, Origin(0, Kind.OBSERVATION, (0, 0), (0, len(ids)))) for ids in chosen]
    return [Span((block,), 0, facts=build_fact_mask((block,), engine.model.tokenizer)) for block in blocks]
