"""Refining: descent on a head's slots never leaves it worse on queries that it has not seen."""

from __future__ import annotations

import pytest
import torch

from holdfast.blocks.block import Block, Kind, Origin
from holdfast.context.budget import Budget
from holdfast.engine.kv_context import KVContext
from holdfast.errors import BadOption
from holdfast.methods.base import Span
from holdfast.methods.latent.baselines.refine import PARTS, descend, pad_heads
from holdfast.methods.per_head import HeadSlots
from holdfast.methods.query_batch import QueryBatch, attention_error, output_and_mass_error
from holdfast.methods.registry import build
from holdfast.model.rope import Rope
from tolerance import near

BEFORE, LENGTH = 12, 30


def studied(pair, ids, spec):
    past = KVContext(pair.model)
    with torch.no_grad():
        past.feed(ids(BEFORE, seed=1))
    origin = Origin(0, Kind.OBSERVATION, (0, LENGTH), (BEFORE, BEFORE + LENGTH))
    span = Span((Block(tuple(ids(LENGTH, seed=2).tolist()), origin),), BEFORE)
    return build(spec).study(span, past, pair.engine)


def refined(pair, ids, options, slots=5):
    study = studied(pair, ids, f"refine:{options}")
    (segment,) = build(f"refine:{options}").compress(study, Budget(slots))
    return study, segment


def made_up(heads=2, n=48, tokens=20, dims=8):
    """A layer whose heads keep the first of random keys and values, and queries that ask all of them."""
    noise = torch.Generator().manual_seed(0)
    queries, keys, values = (torch.randn(heads, k, dims, generator=noise) for k in (n, tokens, tokens))
    logits = queries @ keys.mT
    output, mass = logits.softmax(-1) @ values, logits.logsumexp(-1)
    held = torch.arange(n) % 4 == 3
    one = QueryBatch(queries, output, mass, torch.ones(heads, n), torch.ones(heads, n), held)
    kept = [
        HeadSlots(keys[g, :k], values[g, :k], torch.zeros(k), None, torch.zeros(k))
        for g, k in zip(range(heads), (5, 8), strict=True)
    ]
    return one, kept


STILL = Rope(torch.zeros(1))  # turns nothing


@pytest.mark.parametrize("what", ["keys", "values", "bias", "keys+values+bias"])
def test_descent_lowers_its_loss_and_moves_only_what_is_named(what):
    one, heads = made_up()
    start = pad_heads(heads, STILL)
    *_, end = descend(one, start, what.split("+"), 40, 0.02)
    for g in range(2):
        before, after = (sum(x[g] for x in output_and_mass_error(one, *layer.attend(one))) for layer in (start, end))
        assert after < before
    same = [torch.equal(a, b) for a, b in zip(start, end, strict=True)]
    assert [part for part, still in zip(PARTS, same, strict=True) if not still] == what.split("+")
    assert torch.equal(end.bias.isinf(), start.bias.isinf())  # padding stays padding


def test_each_head_ends_at_its_best_step_on_held_out_queries():
    one, heads = made_up()
    refined, errors = build("refine:steps=40")._refine_heads(one, heads, STILL)
    judge = one.select(one.held_out)
    for g, (before, after, plain) in enumerate(errors):
        found = attention_error(judge, *pad_heads(refined, STILL).attend(judge))[g]
        assert float(found) == near(float(after))
        assert after < before
        assert not plain
    wild, errors = build("refine:steps=10,lr=30")._refine_heads(one, heads, STILL)
    assert all(after <= before for before, after, _ in errors)
    assert all(a is b for (_, _, plain), a, b in zip(errors, wild, heads, strict=True) if plain)


@pytest.mark.parametrize("start", ["informed", "pool", "attention_match", "kvzip(allocation=head)"])
def test_any_start_is_refined_or_left_alone(two, ids, start):
    study, segment = refined(two, ids, f"start={start},steps=5", slots=3)
    assert study.report["after"] <= study.report["before"]
    assert all(torch.isfinite(s.keys).all() and torch.isfinite(s.values).all() for s in segment.layers)


def test_more_steps_are_never_worse_on_the_held_out_queries(two, ids):
    after = [refined(two, ids, f"what=values,steps={n}")[0].report["after"] for n in (0, 5, 10)]
    assert after[0] >= after[1] >= after[2]


def test_no_steps_leave_the_start_as_it_was(two, ids):
    study, segment = refined(two, ids, "steps=0,what=keys+values")
    (start,) = build("informed").compress(study.start, Budget(5))
    assert study.report["plain"] == study.report["heads"]
    for a, b in zip(segment.layers, start.layers, strict=True):
        assert torch.equal(a.keys, b.keys)
        assert torch.equal(a.values, b.values)


@pytest.mark.parametrize("slots", [1, 6, 20])
def test_slots_with_a_bias_take_no_more_than_slots_without(two, ids, slots):
    _, segment = refined(two, ids, "steps=5,lr=0.2", slots)
    family = two.model.family
    held = [segment.layers[layer] for layer in family.full]
    floats = sum(t.numel() for s in held for t in (s.keys, s.values, s.bias) if t is not None)
    assert 0 < floats <= slots * len(family.full) * family.kv_heads * 2 * family.head_dim


def test_biases_stay_within_their_bound(two, ids):
    _, segment = refined(two, ids, "what=bias,steps=20,lr=5")
    assert all(s.bias.abs().max() <= 3 + 1e-6 for s in segment.layers if s.bias is not None)


def test_nothing_holds_a_gradient(two, ids):
    _, segment = refined(two, ids, "steps=5")
    assert not any(t.requires_grad for s in segment.layers for t in (s.keys, s.values, s.bias) if t is not None)
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("options", ["what=all", "steps=-1", "lr=0", "held=0", "most=0", "queries=x", "start=nothing"])
def test_options_that_make_no_sense_are_refused(options):
    with pytest.raises(BadOption):
        build(f"refine:{options}")


def test_soft_tokens_cannot_be_refined(two, ids):
    study = studied(two, ids, "refine:start=virtual_tokens(steps=1)")
    with pytest.raises(BadOption, match="no KV pairs"):
        build("refine:start=virtual_tokens(steps=1)").compress(study, Budget(4))
