"""Repair of a compact memory: lost tokens get their own KV pairs back, in the heads that carried them.

The queries that predict a lost token, asked of the full memory, show the pairs that it is read from. These come back;
under an unchanged budget the pairs that are worth least make room. The caller measures again and takes the better one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from holdfast.context.allocation import best
from holdfast.context.segments import Segment, StateSegment
from holdfast.methods.reference_queries import QueryRecorder, SpanPrefill, equal_weight_queries, raise_to_attention
from holdfast.methods.repeat_prompt import CHUNK, prompt_ids

LEAST_ATTENTION = 1e-3  # attention below which a pair carries nothing of a lost token


@torch.no_grad()
def measure_carriers(prefill: SpanPrefill, lost: Tensor) -> dict[int, Tensor]:
    """Returns the largest attention that each pair of the span receives when the model says the tokens in `lost [T]`.

    Per full-attention layer `[G, T]`. Only the chunks with a lost token are repeated.
    """
    T, model = len(prefill.span), prefill.engine.model
    scores = {layer: torch.zeros(model.family.kv_heads, T, device=model.device) for layer in prefill.layers}
    prompt, frozen = torch.tensor(prompt_ids(model)), prefill.after.fork(frozen=True)
    for at in range(0, T, CHUNK):
        prefill.progress("repair", at, T, "")
        rows = lost[at : at + CHUNK].nonzero()[:, 0]
        if not len(rows):
            continue
        record = QueryRecorder()
        frozen.fork().feed(torch.cat((prompt, prefill.span.ids[at : at + CHUNK])), observer=record)
        predicts = (rows + len(prompt) - 1).to(model.device)
        for layer in scores:
            record.queries[layer] = record.queries[layer][:, predicts]
            record.mass[layer] = record.mass[layer][:, predicts]
        one = equal_weight_queries(prefill, record)
        for layer, s in scores.items():
            raise_to_attention(s, one, layer, prefill.keys(layer))
    prefill.progress("repair", T, T, "")
    return scores


def prefer_carriers(scores: Mapping[int, Tensor], carry: Mapping[int, Tensor], slots: float) -> dict[int, Tensor]:
    """Returns scores in which the strongest carriers, `slots` a head on average, are infinite."""
    strongest = best(carry, int(slots * sum(s.shape[0] for s in scores.values())))
    return {
        layer: s.masked_fill(strongest[layer] & (carry[layer] >= LEAST_ATTENTION), torch.inf)
        for layer, s in scores.items()
    }


def make_scores_finite(segments: Sequence[Segment]) -> tuple[Segment, ...]:
    """Returns segments in which an infinite score is replaced by the best finite one.

    Scores are stored, and files hold finite numbers alone.
    """
    return tuple(_clip_scores(s) if isinstance(s, StateSegment) and s.scores else s for s in segments)


def _clip_scores(segment: StateSegment) -> StateSegment:
    every = torch.cat(segment.scores)
    finite = every[every.isfinite()]
    least, most = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    return replace(segment, scores=tuple(s.nan_to_num(nan=least, posinf=most, neginf=least) for s in segment.scores))
