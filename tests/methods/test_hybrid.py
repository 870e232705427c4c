"""Two methods in one: a budget that is split by worth, or a span that is split in time."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from holdfast.blocks.block import Block, Kind, Origin
from holdfast.context.budget import Budget
from holdfast.context.segments import SoftSegment, StateSegment
from holdfast.engine.kv_context import KVContext
from holdfast.errors import BadOption
from holdfast.methods.base import Span
from holdfast.methods.latent.baselines.split_by_age import split_span
from holdfast.methods.registry import build
from tolerance import PASS, close

BEFORE, LENGTH = 12, 40


def spanned(ids):
    halves = ids(LENGTH, seed=2).split(15)
    blocks, at = [], BEFORE
    for n, part in enumerate(halves):
        blocks.append(Block(tuple(part.tolist()), Origin(n, Kind.OBSERVATION, (0, 1), (at, at + len(part)))))
        at += len(part)
    return Span(tuple(blocks), BEFORE)


def studied(pair, ids, spec):
    past = KVContext(pair.model)
    with torch.no_grad():
        past.feed(ids(BEFORE, seed=1))
    return build(spec).study(spanned(ids), past, pair.engine)


def kept_tokens(segment, layer):
    return [set((positions - BEFORE).long().tolist()) for _, _, positions, _ in segment.layers[layer].heads()]


def pairs(segments, family):
    count = 0
    for s in segments:
        state = isinstance(s, StateSegment)
        count += sum(sum(s.layers[f].lengths) if state else len(s) * family.kv_heads for f in family.full)
    return count


SECONDS = ("pool", "pool(mass=true)", "streaming", "kvzip(queries=own)", "virtual_tokens(steps=2)")


@pytest.mark.parametrize("second", SECONDS)
@pytest.mark.parametrize("slots", [1, 2, 9, 30])
def test_both_together_hold_no_more_than_the_budget(two, ids, second, slots):
    spec, family = f"hybrid:second={second},share=0.6", two.model.family
    made = build(spec).compress(studied(two, ids, spec), Budget(slots))
    assert 0 < pairs(made, family) <= slots * len(family.full) * family.kv_heads


def test_the_first_keeps_what_it_would_keep_alone(two, ids):
    study = studied(two, ids, "hybrid:share=0.5")
    (segment,) = build("hybrid:share=0.5").compress(study, Budget(8))
    (alone,) = build("informed").compress(study.first, Budget(4))
    for layer in two.model.family.full:
        for mine, its in zip(segment.layers[layer].heads(), alone.layers[layer].heads(), strict=True):
            n = len(its[0])
            assert torch.equal(mine[0][:n], its[0])
            assert len(mine[0]) == n + 4


def test_what_is_pooled_is_what_the_first_dropped(two, ids):
    """With uniform weights the pooled slots' values, weighted by their groups, sum to those of the dropped pairs."""
    spec = "hybrid:second=pool(weights=uniform;mass=true),share=0.5"
    study = studied(two, ids, spec)
    (segment,) = build(spec).compress(study, Budget(12))
    (alone,) = build("informed").compress(study.first, Budget(5))
    states = study.first.prefill.states
    for layer in two.model.family.full:
        kept = kept_tokens(alone, layer)
        for g, (_, values, _, bias) in enumerate(segment.layers[layer].heads()):
            lost = [t for t in range(LENGTH) if t not in kept[g]]
            n = len(kept[g])
            pooled = (values[n:] * bias[n:].exp()[:, None]).sum(0)
            assert close(pooled, states.values[layer][g][lost].sum(0), PASS)
            assert not bias[:n].any()


def test_a_second_eviction_takes_none_of_the_firsts(two, ids):
    spec = "hybrid:second=streaming,share=0.5"
    (segment,) = build(spec).compress(studied(two, ids, spec), Budget(10))
    for layer in two.model.family.full:
        lengths = segment.layers[layer].lengths
        assert [len(s) for s in kept_tokens(segment, layer)] == list(lengths)
    assert pairs((segment,), two.model.family) == 10 * len(two.model.family.full) * two.model.family.kv_heads


def test_soft_tokens_stand_in_front_of_what_is_kept(two, ids):
    spec = "hybrid:second=virtual_tokens(steps=2),share=0.5"
    soft, kept = build(spec).compress(studied(two, ids, spec), Budget(8))
    assert isinstance(soft, SoftSegment)
    assert isinstance(kept, StateSegment)
    assert len(soft) == 4


def test_what_fits_is_kept_exactly(two, ids):
    study = studied(two, ids, "hybrid")
    (segment,) = build("hybrid").compress(study, Budget(LENGTH))
    for layer in two.model.family.full:
        assert torch.equal(segment.layers[layer].values, study.first.prefill.states.values[layer].flatten(0, 1))


@pytest.mark.parametrize("old", ["pool", "informed", "virtual_tokens(steps=2)"])
@pytest.mark.parametrize("slots", [1, 2, 11, 39])
def test_old_and_new_together_hold_no_more_than_the_budget(two, ids, old, slots):
    spec, family = f"split_by_age:old={old},share=0.4,at=0.6", two.model.family
    made = build(spec).compress(studied(two, ids, spec), Budget(slots))
    assert 0 < pairs(made, family) <= slots * len(family.full) * family.kv_heads


def test_each_stands_where_its_part_stood(two, ids):
    spec = "split_by_age:at=0.5"
    old, new = build(spec).compress(studied(two, ids, spec), Budget(10))
    for layer in two.model.family.full:
        assert old.layers[layer].positions.max() < BEFORE + 20 <= new.layers[layer].positions.min()
    assert old.last_position < new.last_position < BEFORE + LENGTH


def test_the_new_part_has_read_the_whole_old_part(two, ids):
    """Its states are those of a model that saw everything, not those of one that saw the compacted old part."""
    study, plain = studied(two, ids, "split_by_age:at=0.5"), studied(two, ids, "informed")
    layer = two.model.family.full[-1]
    got, want = study.new.prefill.states.values[layer], plain.prefill.states.values[layer][:, 20:]
    assert close(got, want, PASS)


def test_a_span_is_split_inside_a_block_whose_tokens_and_facts_go_to_their_sides(ids):
    span = replace(spanned(ids), facts=torch.arange(LENGTH) % 3 == 0)
    early, late = split_span(span, 20)
    assert torch.equal(torch.cat((early.ids, late.ids)), span.ids)
    assert (len(early), late.start) == (20, BEFORE + 20)
    assert torch.equal(torch.cat((early.facts, late.facts)), span.facts)
    assert len(early.facts) == 20
    first, last = span.origins[1].tokens
    assert early.origins[-1] == replace(span.origins[1], tokens=(first, first + 5))
    assert late.origins[0] == replace(span.origins[1], tokens=(first + 5, last))


@pytest.mark.parametrize(
    "spec",
    [
        "hybrid:share=0",
        "hybrid:share=1",
        "hybrid:first=pool",
        "hybrid:second=nothing",
        "hybrid:second=pool(weights=x)",
        "split_by_age:at=1",
        "split_by_age:share=0",
        "split_by_age:old=nothing",
        "split_by_age:new=kvzip(chunk=0)",
    ],
)
def test_options_that_make_no_sense_are_refused(spec):
    with pytest.raises(BadOption):
        build(spec)
