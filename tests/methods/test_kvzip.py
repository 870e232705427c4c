"""KVzip against its definition, computed from the attention weights that transformers itself returns."""

from __future__ import annotations

import copy

import pytest
import torch

from holdfast.blocks.block import Block, Kind, Origin
from holdfast.context.budget import Budget
from holdfast.context.segments import StateSegment
from holdfast.engine.kv_context import KVContext
from holdfast.methods.base import Span
from holdfast.methods.latent.kvzip import KVzip
from holdfast.methods.registry import build
from holdfast.methods.repeat_prompt import prompt_ids
from tolerance import PASS, close

BEFORE, LENGTH = 12, 30


def span_of(ids, start=0):
    origin = Origin(0, Kind.OBSERVATION, (0, len(ids)), (start, start + len(ids)))
    return Span((Block(tuple(ids.tolist()), origin),), start)


def studied(pair, ids, **options):
    past = KVContext(pair.model)
    with torch.no_grad():
        past.feed(ids(BEFORE, seed=1))
    span = span_of(ids(LENGTH, seed=2), BEFORE)
    return KVzip(**options).study(span, past, pair.engine), span


def by_hand(pair, ids, chunk):
    """Largest eager attention on each key of the span from the prompt and the repeat, `[G, T]` per full layer."""
    eager = copy.deepcopy(pair.plain)
    eager.set_attn_implementation("eager")
    prompt = prompt_ids(pair.model)
    family, span = pair.model.family, ids(LENGTH, seed=2)
    scores = {layer: torch.zeros(family.kv_heads, LENGTH) for layer in family.full}
    for part in span.split(chunk):
        text = torch.cat((ids(BEFORE, seed=1), span, torch.tensor(prompt), part))
        with torch.no_grad():
            attentions = eager(text[None], output_attentions=True).attentions
        for layer in family.full:
            p = attentions[layer][0, :, BEFORE + LENGTH :, BEFORE : BEFORE + LENGTH]  # [H, queries, T]
            per_head = p.amax(1).unflatten(0, (family.kv_heads, -1)).amax(1)
            scores[layer] = torch.maximum(scores[layer], per_head)
    return scores


@pytest.mark.parametrize("chunk", [1024, 13])
def test_scores_are_the_largest_attention_that_a_repeat_gives(two, ids, chunk):
    study, _ = studied(two, ids, chunk=chunk)
    want = by_hand(two, ids, chunk)
    assert set(study.scores) == set(want)
    for layer, scores in study.scores.items():
        assert close(scores, want[layer], PASS)
        assert scores.std() > 0.01  # the model's attention is peaked enough for this to mean something


@pytest.mark.parametrize("slots", [1, 7, 29])
def test_one_threshold_keeps_exactly_the_budget_and_the_best(two, ids, slots):
    study, _ = studied(two, ids)
    family = two.model.family
    (segment,) = KVzip().compress(study, Budget(slots))
    heads = len(family.full) * family.kv_heads
    lengths = [segment.layers[layer].lengths for layer in family.full]
    assert sum(map(sum, lengths)) == slots * heads
    kept, dropped = [], []
    for layer in family.full:
        for head, (_, _, positions, _) in enumerate(segment.layers[layer].heads()):
            mask = torch.zeros(LENGTH, dtype=torch.bool)
            mask[(positions - BEFORE).long()] = True
            kept.append(study.scores[layer][head][mask])
            dropped.append(study.scores[layer][head][~mask])
    assert torch.cat(kept).min() >= torch.cat(dropped).max()


def test_one_threshold_gives_heads_different_numbers(two, ids):
    study, _ = studied(two, ids)
    (segment,) = KVzip().compress(study, Budget(8))
    assert len({n for layer in two.model.family.full for n in segment.layers[layer].lengths}) > 1


def test_an_equal_share_gives_every_head_its_best(two, ids):
    study, _ = studied(two, ids, allocation="head")
    (segment,) = build("kvzip_per_head").compress(study, Budget(7))
    for layer in two.model.family.full:
        assert segment.layers[layer].lengths == (7,) * two.model.family.kv_heads
        for head, (_, _, positions, _) in enumerate(segment.layers[layer].heads()):
            best = study.scores[layer][head].topk(7).indices.sort().values
            assert torch.equal((positions - BEFORE).long(), best)


def test_sliding_layers_are_kept_as_they_are(tiny, ids):
    pair = tiny("gemma3_text")
    study, _ = studied(pair, ids)
    (segment,) = KVzip().compress(study, Budget(3))
    for layer, facts in enumerate(pair.model.family.layers):
        if facts.window:
            assert segment.layers[layer].positions.tolist() == [BEFORE + LENGTH - n for n in range(7, 0, -1)]


def test_what_is_kept_is_what_the_model_computed(two, ids):
    study, span = studied(two, ids)
    (segment,) = KVzip().compress(study, Budget(9))
    assert isinstance(segment, StateSegment)
    assert segment.origins == span.origins
    for layer in two.model.family.full:
        for head, (keys, values, positions, bias) in enumerate(segment.layers[layer].heads()):
            where = (positions - BEFORE).long()
            assert torch.equal(keys, study.prefill.states.keys[layer][head][where])
            assert torch.equal(values, study.prefill.states.values[layer][head][where])
            assert bias is None


def test_progress_runs_from_nothing_to_all(tiny, ids):
    seen = []
    span = span_of(ids(LENGTH))
    KVzip(chunk=10).study(span, KVContext(tiny("llama").model), tiny("llama").engine, lambda *step: seen.append(step))
    repeats = [(done, total) for what, done, total, _ in seen if what == "repeat"]
    assert repeats == [(n, 30) for n in (0, 10, 20, 30)]


def test_truncate_keeps_the_newest_tokens_where_they_stood(tiny, ids):
    span = span_of(ids(LENGTH), 100)
    method = build("truncate")
    (segment,) = method.compress(method.study(span, KVContext(tiny("llama").model), tiny("llama").engine), Budget(4))
    assert segment.ids.tolist() == ids(LENGTH)[-4:].tolist()
    assert segment.positions.tolist() == [126, 127, 128, 129]
    assert [o.tokens for o in segment.origins] == [(126, 130)]
