"""Pooling: a slot is the weighted mean of its group."""

from __future__ import annotations

import math

import pytest
import torch

from holdfast.blocks.block import Block, Kind, Origin
from holdfast.context.budget import Budget
from holdfast.engine.kv_context import KVContext
from holdfast.errors import BadOption
from holdfast.methods.base import Span
from holdfast.methods.registry import build
from tolerance import close, near

BEFORE, LENGTH = 12, 30


def studied(pair, ids, spec="pool"):
    past = KVContext(pair.model)
    with torch.no_grad():
        past.feed(ids(BEFORE, seed=1))
    origin = Origin(0, Kind.OBSERVATION, (0, LENGTH), (BEFORE, BEFORE + LENGTH))
    span = Span((Block(tuple(ids(LENGTH, seed=2).tolist()), origin),), BEFORE)
    return build(spec).study(span, past, pair.engine)


@pytest.mark.parametrize("weights", ["surprisal", "uniform"])
def test_a_slot_is_the_mean_of_its_group(two, ids, weights):
    spec = f"pool:weights={weights}"
    study = studied(two, ids, spec)
    (segment,) = build(spec).compress(study, Budget(5))
    count = torch.ones(LENGTH) if weights == "uniform" else study.states.surprisal + 1e-3
    for layer in two.model.family.full:
        for g, (keys, values, positions, bias) in enumerate(segment.layers[layer].heads()):
            assert len(keys) == 5
            assert bias is None
            for slot in range(5):
                group = slice(slot * 6, slot * 6 + 6)
                w = (count[group] / count[group].sum())[:, None]
                assert close(values[slot], (w * study.states.values[layer][g][group]).sum(0), LENGTH)
                assert close(keys[slot], (w * study.states.keys[layer][g][group]).sum(0), LENGTH)
                assert positions[slot] == near(float((w[:, 0] * study.states.positions[group]).sum()), LENGTH)


def test_a_slot_may_stand_where_its_group_ends(two, ids):
    (segment,) = build("pool:position=last").compress(studied(two, ids), Budget(5))
    layer = two.model.family.full[0]
    assert segment.layers[layer].positions[:5].tolist() == [BEFORE + 6 * n + 5 for n in range(5)]


def test_the_bias_is_the_log_of_the_groups_size_and_is_paid_for(two, ids):
    family, slots = two.model.family, 12
    (segment,) = build("pool:mass=true").compress(studied(two, ids), Budget(slots))
    held = [segment.layers[layer] for layer in family.full]
    floats = sum(t.numel() for s in held for t in (s.keys, s.values, s.bias) if t is not None)
    assert floats <= slots * len(family.full) * family.kv_heads * 2 * family.head_dim
    n = held[0].lengths[0]
    assert held[0].bias[:n].exp().sum() == near(LENGTH, LENGTH)
    assert held[0].bias.max() <= math.log(math.ceil(LENGTH / n)) + 1e-5


@pytest.mark.parametrize("options", ["", ":mass=true", ":position=last"])
def test_as_many_slots_as_tokens_is_the_span_itself(two, ids, options):
    study = studied(two, ids)
    (segment,) = build(f"pool{options}").compress(study, Budget(LENGTH))
    for layer in two.model.family.full:
        slots = segment.layers[layer]
        assert slots.bias is None
        assert close(slots.values, study.states.values[layer].flatten(0, 1), LENGTH)
        assert torch.equal(slots.positions, study.states.positions.repeat(two.model.family.kv_heads))


@pytest.mark.parametrize("options", ["weights=none", "position=first", "mass=2"])
def test_options_that_make_no_sense_are_refused(options):
    with pytest.raises(BadOption):
        build(f"pool:{options}")
