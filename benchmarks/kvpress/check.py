"""Check that we run the rivals as kvpress runs them: next-token logits of both programs on one short window.

1. Without a prefix, kvpress does everything by itself: prefill under its unchanged press, then a question over its
   cache with its own masking. We study, compress and read the same question.
2. Behind a prefix, which kvpress cannot leave out, its masking hides the pairs that our selection dropped.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from kvpress import (
    AdaKVPress,
    ExpectedAttentionPress,
    KeyDiffPress,
    KnormPress,
    KVzipPress,
    SnapKVPress,
)
from reading import raw
from torch import Tensor
from transformers import DynamicCache

from holdfast.blocks.block import Block
from holdfast.blocks.render import RenderedSession
from holdfast.context.budget import Budget, budget_from_ratio
from holdfast.context.segments import CompactContext, token_segment
from holdfast.engine.kv_context import KVContext
from holdfast.engine.local import LocalEngine
from holdfast.methods.base import Span
from holdfast.methods.registry import build

PRESSES: dict[str, Callable[[float], Any]] = {
    "rival_kvzip": KVzipPress,
    "rival_snapkv": SnapKVPress,
    "rival_expected_attention": ExpectedAttentionPress,
    "rival_adakv_expected_attention": lambda ratio: AdaKVPress(ExpectedAttentionPress(ratio)),
    "rival_keydiff": KeyDiffPress,
    "rival_knorm": KnormPress,
}
WINDOW, PREFIX, ASKED, RATIO = 384, 96, 8, 4.0
TOLERANCE = 1e-3


def check(engine: LocalEngine, rendered: RenderedSession) -> dict[str, tuple[float, float]]:
    """Returns the largest difference of logits for each rival: without a prefix and behind one."""
    ids = torch.tensor(rendered.ids[: WINDOW + ASKED])
    window, question = ids[:WINDOW], ids[WINDOW:]
    return {
        name: (
            _whole(name, engine, rendered.blocks[0], window, question),
            _behind(name, engine, rendered.blocks[0], window, question),
        )
        for name in PRESSES
    }


def _whole(name: str, engine: LocalEngine, block: Block, window: Tensor, question: Tensor) -> float:
    budget = budget_from_ratio(WINDOW, RATIO)
    ours, _ = _ours(name, engine, block, (window[:0], window), question, budget)
    hf, cache = engine.model.hf, DynamicCache()
    with torch.no_grad(), raw(hf):
        with PRESSES[name](1 - 1 / RATIO)(hf):  # keeps the budget exactly: 384 / 4 has no remainder
            hf.model(input_ids=window[None].to(hf.device), past_key_values=cache)
        theirs = _question_logits(hf, cache, question)
    return float((ours - theirs).abs().max())


def _behind(name: str, engine: LocalEngine, block: Block, window: Tensor, question: Tensor) -> float:
    budget = budget_from_ratio(WINDOW - PREFIX, RATIO)
    parts = window[:PREFIX], window[PREFIX:]
    ours, dropped = _ours(name, engine, block, parts, question, budget)
    hf, cache = engine.model.hf, DynamicCache()
    with torch.no_grad(), raw(hf):
        hf.model(input_ids=window[None].to(hf.device), past_key_values=cache)
        for layer, mask in zip(hf.model.layers, dropped, strict=True):
            heads, at = mask.nonzero(as_tuple=True)
            layer.self_attn.masked_key_indices = (torch.zeros_like(heads), heads, at + PREFIX)
        theirs = _question_logits(hf, cache, question)
    return float((ours - theirs).abs().max())


def _ours(
    name: str, engine: LocalEngine, block: Block, parts: tuple[Tensor, Tensor], question: Tensor, budget: Budget
) -> tuple[Tensor, Tensor]:
    """Logits `[n, V]` of the question after prefix and compacted span, and what was dropped, `[L, G, T]`."""
    prefix, span_ids = parts
    kept = (token_segment(tuple(prefix.tolist()), 0),) if len(prefix) else ()
    past = engine.open(CompactContext(kept, len(prefix))) if kept else KVContext(engine.model)
    span = Span((Block(tuple(span_ids.tolist()), block.origin),), len(prefix))
    rival: Any = build(name)
    study = rival.study(span, past, engine)
    live = engine.open(CompactContext((*kept, *rival.compress(study, budget)), WINDOW))
    return engine.next_logits(live, question.tolist()), ~rival.chosen(study, budget.slots)


def _question_logits(hf: Any, cache: DynamicCache, question: Tensor) -> Tensor:
    """Returns the logits of a question read at its place behind the window, over a compressed cache."""
    positions = torch.arange(WINDOW, WINDOW + len(question))[None]
    out = hf(input_ids=question[None].to(hf.device), past_key_values=cache, position_ids=positions.to(hf.device))
    return out.logits[0].float()  # type: ignore[no-any-return]
