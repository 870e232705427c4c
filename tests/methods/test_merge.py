"""Merging: what is dropped lives on in its nearest kept neighbour."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from holdfast.blocks.block import Block, Kind, Origin
from holdfast.context.budget import Budget
from holdfast.engine.kv_context import KVContext
from holdfast.errors import BadOption
from holdfast.methods.base import Span
from holdfast.methods.registry import build
from tolerance import close

BEFORE, LENGTH = 12, 30


def studied(pair, ids, spec):
    past = KVContext(pair.model)
    with torch.no_grad():
        past.feed(ids(BEFORE, seed=1))
    origin = Origin(0, Kind.OBSERVATION, (0, LENGTH), (BEFORE, BEFORE + LENGTH))
    span = Span((Block(tuple(ids(LENGTH, seed=2).tolist()), origin),), BEFORE)
    return build(spec).study(span, past, pair.engine)


def by_hand(states, scores, layer, g, kept, even, least):
    """Values and mass of one head's kept slots, pair by pair."""
    keys, values = states.keys[layer][g], states.values[layer][g]
    weight = torch.ones(LENGTH) if even else scores[layer][g] + 1e-9
    total = {int(t): float(weight[t]) for t in kept}
    summed = {int(t): weight[t] * values[t] for t in kept}
    for t in range(LENGTH):
        if t in total:
            continue
        alike = {s: float(F.cosine_similarity(keys[t], keys[s], dim=0)) for s in total}
        near = max(alike, key=lambda s: alike[s])
        if alike[near] >= least:
            total[near] += float(weight[t])
            summed[near] = summed[near] + weight[t] * values[t]
    return torch.stack([summed[int(t)] / total[int(t)] for t in kept]), total


@pytest.mark.parametrize("weights", ["score", "even"])
@pytest.mark.parametrize("least", [-1, 0.3])
def test_values_are_the_weighted_mean_of_a_slot_and_what_is_nearest_to_it(two, ids, weights, least):
    spec = f"merge:weights={weights},least={least}"
    study = studied(two, ids, spec)
    (segment,) = build(spec).compress(study, Budget(6))
    states = study.prefill.states
    for layer in two.model.family.full:
        for g, (keys, values, positions, bias) in enumerate(segment.layers[layer].heads()):
            kept = (positions - BEFORE).long()
            if len(kept):
                want, _ = by_hand(states, study.scores, layer, g, kept, weights == "even", least)
                assert close(values, want, LENGTH)
            assert torch.equal(keys, states.keys[layer][g][kept])
            assert bias is None


def test_the_bias_is_the_log_of_one_and_the_mass_folded_in(two, ids):
    spec = "merge:mass=true,weights=even,least=-1"
    study = studied(two, ids, spec)
    (segment,) = build(spec).compress(study, Budget(9))
    for layer in two.model.family.full:
        for g, (_, values, positions, bias) in enumerate(segment.layers[layer].heads()):
            kept = (positions - BEFORE).long()
            if len(values):
                _, total = by_hand(study.prefill.states, study.scores, layer, g, kept, True, -1)
                want = torch.tensor([total[int(t)] for t in kept]).log().clamp(max=3)
                assert close(bias, want, LENGTH)


def test_keys_may_follow(two, ids):
    plain, folded = (
        build(spec).compress(studied(two, ids, spec), Budget(4))[0] for spec in ("merge", "merge:keys=true,least=-1")
    )
    layer = two.model.family.full[0]
    assert not torch.equal(plain.layers[layer].keys, folded.layers[layer].keys)
    assert torch.equal(plain.layers[layer].positions, folded.layers[layer].positions)


@pytest.mark.parametrize("slots", [1, 5, 17])
def test_slots_with_a_bias_take_no_more_than_slots_without(two, ids, slots):
    study, family = studied(two, ids, "merge:mass=true"), two.model.family
    (segment,) = build("merge:mass=true").compress(study, Budget(slots))
    held = [segment.layers[layer] for layer in family.full]
    floats = sum(t.numel() for s in held for t in (s.keys, s.values, s.bias) if t is not None)
    assert 0 < floats <= slots * len(family.full) * family.kv_heads * 2 * family.head_dim


def test_a_threshold_that_nothing_reaches_is_plain_eviction(two, ids):
    study = studied(two, ids, "merge:least=1")
    (merged,) = build("merge:least=1").compress(study, Budget(6))
    (plain,) = build("informed").compress(study, Budget(6))
    for a, b in zip(merged.layers, plain.layers, strict=True):
        assert close(a.values, b.values, LENGTH)
        assert torch.equal(a.keys, b.keys)


@pytest.mark.parametrize("base", ["knorm", "random", "kvzip(allocation=head)"])
def test_scores_of_any_sign_weigh_and_every_allocation_works(two, ids, base):
    spec = f"merge:base={base},mass=true"
    (segment,) = build(spec).compress(studied(two, ids, spec), Budget(5))
    assert all(torch.isfinite(s.values).all() for s in segment.layers)


@pytest.mark.parametrize("options", ["weights=none", "least=2", "base=pool", "keys=maybe"])
def test_options_that_make_no_sense_are_refused(options):
    with pytest.raises(BadOption):
        build(f"merge:{options}")
