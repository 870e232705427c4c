"""What is compact becomes more compact: the same slots that one tighter compaction would have kept, unread."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from holdfast.blocks.block import Block, Kind, Origin
from holdfast.compaction.compact import compact
from holdfast.compaction.plan import Plan, Policy
from holdfast.compaction.recompact import join, recompact
from holdfast.context import holdfast_file
from holdfast.context.budget import budget_from_ratio
from holdfast.context.compose import compose
from holdfast.context.recompact import find_cells, tighten
from holdfast.context.segment_tensors import name_tensors
from holdfast.context.segments import CompactContext, SoftSegment, StateSegment, token_segment
from holdfast.engine.kv_context import KVContext
from holdfast.errors import BadContext, BadInput, BadOption
from holdfast.methods.base import Span
from holdfast.methods.registry import build

PROBE = [20, 30, 40, 50, 60]


def span_of(pair, ids, n=96):
    block = Block(tuple(ids(n).tolist()), Origin(1, Kind.OBSERVATION, (0, 9), (0, n)))
    return Span((block,), 0)


def compressed(pair, span, latent, ratio):
    method = build(latent)
    study = method.study(span, KVContext(pair.model), pair.engine)
    return list(method.compress(study, budget_from_ratio(len(span), ratio)))


def held(segments):
    return sum(len(c.scores) for c in find_cells(segments))


def same(a, b):
    one, two = (name_tensors(CompactContext(tuple(s), 10_000)) for s in (a, b))
    return [n for n, _ in one] == [n for n, _ in two] and all(
        torch.equal(x, y) for (_, x), (_, y) in zip(one, two, strict=True)
    )


@pytest.mark.parametrize(
    ("latent", "kind"),
    [
        ("kvzip", "global"),
        ("informed", "global"),
        ("kvzip:allocation=layer", "layer"),
        ("kvzip_per_head", "head"),
        ("knorm:allocation=global", "global"),
        ("streaming", "head"),
        ("keydiff", "head"),
    ],
)
def test_8x_tightened_to_16x_is_16x_at_once(two, ids, latent, kind):
    span = span_of(two, ids)
    loose, tight = (compressed(two, span, latent, ratio) for ratio in (8, 16))
    made = tighten(loose, held(tight), kind)
    assert same(made, tight)
    assert same(tighten(tighten(loose, held(tight) + 5, kind), held(tight), kind), tight) or kind == "head"


def test_equal_scores_go_to_the_first_slots_in_both_ways(tiny, ids):
    pair, span = tiny("llama"), span_of(tiny("llama"), ids)
    method = build("kvzip")
    study = method.study(span, KVContext(pair.model), pair.engine)
    study = study._replace(scores={layer: torch.ones_like(s) for layer, s in study.scores.items()})
    loose, tight = (list(method.compress(study, budget_from_ratio(len(span), ratio))) for ratio in (2, 6))
    assert same(tighten(loose, held(tight)), tight)


def test_inputs_are_left_as_they_were_and_what_fits_is_unchanged(tiny, ids):
    pair = tiny("llama")
    segments = compressed(pair, span_of(pair, ids), "kvzip", 4)
    before = [t.clone() for _, t in name_tensors(CompactContext(tuple(segments), 10_000))]
    tighten(segments, 7)
    now = [t for _, t in name_tensors(CompactContext(tuple(segments), 10_000))]
    assert all(torch.equal(a, b) for a, b in zip(before, now, strict=True))
    assert same(tighten(segments, held(segments)), segments)


def test_segments_compete_unless_they_are_kept_apart(tiny, ids):
    pair = tiny("llama")
    (one,) = compressed(pair, span_of(pair, ids), "kvzip", 4)
    poor = replace(one, scores=tuple(s / 1e6 for s in one.scores))
    n = held([one])
    rich, empty = tighten([one, poor], n)
    assert (held([rich]), held([empty])) == (n, 0)
    halves = tighten([one, poor], n, apart=True)
    assert abs(held(halves[:1]) - held(halves[1:])) <= 1
    assert held(halves) == n


@pytest.mark.parametrize("kind", ["global", "layer", "head", "pyramid", "learned"])
@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("pairs", [0, 1, 13])
def test_exactly_as_many_slots_stay_as_were_asked_for(tiny, ids, kind, apart, pairs):
    pair = tiny("llama")
    segments = compressed(pair, span_of(pair, ids), "kvzip", 4) + compressed(pair, span_of(pair, ids), "kvzip", 9)
    made = tighten(segments, pairs, kind, apart=apart)
    assert held(made) == pairs
    assert len(made) == len(segments)


def test_verbatim_tokens_and_sliding_layers_stay_whole(tiny, session):
    pair = tiny("gemma3_text")
    context = compact(session, pair.engine, Plan("kvzip", 4))
    made = recompact(context, pair.engine, ratio=12)
    for was, now in zip(context.segments, made.segments, strict=True):
        if not isinstance(was, StateSegment):
            assert now is was
            continue
        for index, layer in enumerate(pair.model.family.layers):
            if layer.window is not None:
                assert now.layers[index] is was.layers[index]
            else:
                assert sum(now.layers[index].lengths) <= sum(was.layers[index].lengths)


def test_a_tightened_session_is_the_session_compacted_at_once(two, session):
    policy = Policy(pin=(Kind.SYSTEM, Kind.TASK))
    plans = [Plan("kvzip", ratio, policy=policy) for ratio in (4, 9)]
    loose, tight = (compact(session, two.engine, plan) for plan in plans)
    states = [s for s in tight.segments if isinstance(s, StateSegment)]
    assert len(states) == 1
    made = recompact(loose, two.engine, ratio=9)
    assert same(made.segments, tight.segments)
    got, want = (two.engine.next_logits(two.engine.open(c), PROBE) for c in (made, tight))
    assert torch.equal(got, want)
    assert made.evidence["bytes"] == tight.evidence["bytes"] == two.engine.open(made).nbytes


def test_rounds_are_in_the_recipe_and_old_findings_are_not_claimed_of_the_new_slots(two, session):
    context = compact(session, two.engine, Plan("kvzip", 4))
    context = replace(context, evidence={**context.evidence, "lost": ["PORT"]})
    once = recompact(context, two.engine, ratio=8)
    twice = recompact(once, two.engine, slots=3, apart=True)
    assert [r.get("ratio", r.get("slots")) for r in twice.recipe["rounds"]] == [8, 3]
    assert [r["apart"] for r in twice.recipe["rounds"]] == [False, True]
    assert twice.recipe["latent"] == "kvzip"
    assert "lost" not in twice.evidence
    assert twice.evidence["rounds"][0]["before"]["lost"] == ["PORT"]
    assert len(twice.evidence["rounds"]) == 2
    for made in (once, twice):
        assert made.evidence["bytes"] == two.engine.open(made).nbytes
        assert made.evidence["bytes_full"] == context.evidence["bytes_full"]
        assert made.evidence["tokens_compacted"] == context.evidence["tokens_compacted"]
        assert made.next_position == context.next_position


def test_a_methods_own_allocation_is_kept(tiny, session):
    pair = tiny("llama")
    made = recompact(compact(session, pair.engine, Plan("kvzip_per_head", 4)), pair.engine, ratio=8)
    assert made.recipe["rounds"][0]["allocation"] == "head"
    (mixed,) = [compose([made, compact(session, pair.engine, Plan("kvzip", 4))])]
    assert recompact(mixed, pair.engine, slots=2).recipe["rounds"][0]["allocation"] == "global"


def test_a_joined_context_is_tightened_as_one(tiny, session):
    pair = tiny("llama")
    a = compact(session, pair.engine, Plan("kvzip", 3))
    both = join([a, a], pair.engine)
    made = recompact(both, pair.engine, ratio=6)
    assert len(made.segments) == len(both.segments)
    assert made.evidence["bytes"] == pair.engine.open(made).nbytes < both.evidence["bytes"]


def test_what_was_dropped_cannot_come_back(tiny, session):
    pair = tiny("llama")
    context = compact(session, pair.engine, Plan("kvzip", 8))
    with pytest.raises(BadOption, match="a ratio of 8"):
        recompact(context, pair.engine, ratio=4)
    with pytest.raises(BadOption, match="cannot come back"):
        recompact(context, pair.engine, slots=10_000)
    with pytest.raises(BadOption, match="at least 1"):
        recompact(context, pair.engine, ratio=0.5)
    with pytest.raises(BadOption, match="at least 1"):
        recompact(context, pair.engine, slots=0)
    with pytest.raises(BadOption, match="either"):
        recompact(context, pair.engine)
    with pytest.raises(BadOption, match="one of global"):
        recompact(context, pair.engine, ratio=16, allocation="even")


@pytest.mark.parametrize("latent", ["truncate", "virtual_tokens:steps=1"])
def test_a_method_without_scores_is_told_to_compact_again(tiny, session, latent):
    pair = tiny("llama")
    context = compact(session, pair.engine, Plan(latent, 3))
    with pytest.raises(BadInput, match="compact the session again"):
        recompact(context, pair.engine, ratio=8)


def test_states_without_scores_are_told_to_compact_again(tiny, session):
    pair = tiny("llama")
    context = compact(session, pair.engine, Plan("kvzip", 3))
    bare = [replace(s, scores=()) if isinstance(s, StateSegment) else s for s in context.segments]
    with pytest.raises(BadInput, match="compact the session again"):
        recompact(replace(context, segments=tuple(bare)), pair.engine, ratio=8)
    soft = SoftSegment(torch.zeros(1, 64), torch.zeros(1))
    with pytest.raises(BadInput, match="virtual tokens"):
        tighten([soft], 0)
    with pytest.raises(BadInput, match="only verbatim"):
        tighten([token_segment([5], 0)], 0)


def test_another_models_context_is_refused(tiny, session):
    context = compact(session, tiny("llama").engine, Plan("kvzip", 3))
    with pytest.raises(BadContext, match="another model"):
        recompact(context, tiny("llama", 1).engine, ratio=8)


@pytest.fixture
def stored(two, session, tmp_path):
    context = compact(session, two.engine, Plan("informed", 4))
    return two, context, holdfast_file.save(context, tmp_path / "a.holdfast", two.model)


def test_scores_are_saved_and_loaded_bit_for_bit(stored):
    pair, context, path = stored
    loaded = holdfast_file.load(path, pair.model)
    assert same(loaded.segments, context.segments)
    assert any(n.endswith(".scores") for n, _ in name_tensors(loaded))
    one, two = (recompact(c, pair.engine, ratio=9) for c in (context, loaded))
    assert same(one.segments, two.segments)


def rewrite(path, model, tensors):
    """The file with other tensors, sound in every other way."""
    manifest = holdfast_file.read_manifest(path).model_copy(update={"sha256": holdfast_file._digest(tensors)})
    manifest = manifest.model_copy(update={"seal": holdfast_file._seal(manifest)})
    save_file(tensors, path, metadata={holdfast_file.KEY: manifest.model_dump_json()})


def test_a_file_from_before_scores_were_kept_is_loaded(stored):
    pair, context, path = stored
    old = {name: t for name, t in load_file(path).items() if not name.endswith(".scores")}
    rewrite(path, pair.model, old)
    loaded = holdfast_file.load(path, pair.model)
    got, want = (pair.engine.next_logits(pair.engine.open(c), PROBE) for c in (loaded, context))
    assert torch.equal(got, want)
    with pytest.raises(BadInput, match="older"):
        recompact(loaded, pair.engine, ratio=8)


HOSTILE = {
    "too few": lambda t: t[:-1].clone(),
    "too many": lambda t: torch.cat((t, t[:1])),
    "not numbers": lambda t: t * float("nan"),
    "without end": lambda t: t + float("inf"),
    "halves": lambda t: t.half(),
    "whole numbers": lambda t: t.long(),
    "in two dimensions": lambda t: t[None].clone(),
    "missing": None,
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_scores_are_refused(stored, case):
    pair, context, path = stored
    at = next(i for i, s in enumerate(context.segments) if isinstance(s, StateSegment))
    name = f"{at}.{pair.model.family.full[-1]}.scores"
    held_tensors = load_file(path)
    change = HOSTILE[case]
    given = held_tensors.pop(name)
    rewrite(path, pair.model, held_tensors | ({name: change(given)} if change else {}))
    with pytest.raises(BadContext):
        holdfast_file.load(path, pair.model)
