"""Contexts one after another: places, provenance and sizes are exact; what it costs is measured, not promised."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from holdfast.blocks.block import Kind, Origin
from holdfast.blocks.render import render
from holdfast.compaction.compact import compact
from holdfast.compaction.plan import Plan, Policy
from holdfast.compaction.recompact import join
from holdfast.context import holdfast_file
from holdfast.context.compose import compose, context_bytes
from holdfast.context.segments import CompactContext, SoftSegment, StateSegment, TokenSegment, token_segment
from holdfast.context.surgery import keep_pairs
from holdfast.engine.kv_context import KVContext
from holdfast.errors import BadContext, BadInput
from tolerance import PASS, close

PROBE = [20, 30, 40, 50, 60]
SYSTEM, ASKED = Origin(0, Kind.SYSTEM, (0, 9), (0, 4)), Origin(1, Kind.TASK, (9, 30), (4, 10))


def logits(pair, context):
    return pair.engine.next_logits(pair.engine.open(context), PROBE)


def verbatim(pair, ids, n, seed, origins=()):
    return CompactContext((token_segment(ids(n, seed), 0, origins),), n, model_digest=pair.model.digest)


def positions(segment):
    return [s.positions for s in segment.layers] if isinstance(segment, StateSegment) else [segment.positions]


def test_verbatim_contexts_composed_are_their_tokens_read_in_one_go(pair, ids):
    """Tokens are read again when a context is opened, so nothing is lost here."""
    parts = [verbatim(pair, ids, n, seed) for seed, n in enumerate((12, 20, 7))]
    got = logits(pair, compose(parts))
    whole = torch.cat([c.segments[0].ids for c in parts])
    with torch.no_grad():
        want = pair.plain(torch.cat((whole, torch.tensor(PROBE)))[None]).logits[0, -len(PROBE) :]
    assert close(got, want, PASS)


def test_later_contexts_move_behind_the_earlier_ones(two, session):
    a = compact(session, two.engine, Plan("kvzip", 4))
    b = compact(session, two.engine, Plan("virtual_tokens:steps=1", 4))
    made = compose([a, b, a])
    assert made.next_position == 2 * a.next_position + b.next_position
    n = len(a.segments)
    for was, now in zip(b.segments, made.segments[n:], strict=False):
        for p, q in zip(positions(was), positions(now), strict=True):
            assert torch.equal(p + a.next_position, q)
    assert {type(s) for s in made.segments} == {TokenSegment, SoftSegment, StateSegment}
    assert [s is t for s, t in zip(made.segments, a.segments, strict=False)] == [True] * n


def test_every_segment_can_be_followed_to_its_session(two, session):
    a, b = (compact(session, two.engine, Plan(latent, 4)) for latent in ("kvzip", "snapkv"))
    made = compose([a, b])
    assert [p["segments"] for p in made.recipe["parts"]] == [len(a.segments), len(b.segments)]
    assert [p["recipe"]["latent"] for p in made.recipe["parts"]] == ["kvzip", "snapkv"]
    assert [p["positions"] for p in made.recipe["parts"]] == [
        [0, a.next_position],
        [a.next_position, made.next_position],
    ]
    assert [s.origins for s in made.segments] == [s.origins for c in (a, b) for s in c.segments]


def test_composing_step_by_step_is_composing_at_once(two, session):
    a, b, c = (compact(session, two.engine, Plan("kvzip", r)) for r in (3, 4, 5))
    at_once, stepwise = compose([a, b, c]), compose([compose([a, b]), c])
    assert at_once.recipe == stepwise.recipe
    assert at_once.evidence == stepwise.evidence
    assert torch.equal(logits(two, at_once), logits(two, stepwise))


def test_a_later_system_prompt_can_be_left_out(tiny, ids):
    pair = tiny("llama")
    a, b = (verbatim(pair, ids, 10, seed, (SYSTEM, ASKED)) for seed in (0, 1))
    made = compose([a, b], drop_head=True)
    assert made.next_position == 16
    assert made.segments[1].ids.tolist() == b.segments[0].ids[4:].tolist()
    assert made.segments[1].positions.tolist() == list(range(10, 16))
    assert [s.origins for s in made.segments] == [(SYSTEM, ASKED), (ASKED,)]
    assert compose([a, b]).next_position == 20


def test_a_system_prompt_in_a_segment_of_its_own_is_left_out_whole(two, session):
    a = compact(session, two.engine, Plan("kvzip", 4, policy=Policy(pin=(Kind.SYSTEM,))))
    assert {o.kind for o in a.segments[0].origins} == {Kind.SYSTEM}
    made = compose([a, a], drop_head=True)
    head = len(a.segments[0])
    assert len(made.segments) == 2 * len(a.segments) - 1
    assert [p["segments"] for p in made.recipe["parts"]] == [len(a.segments), len(a.segments) - 1]
    assert made.next_position == 2 * a.next_position - head
    assert min(float(p.min()) for p in positions(made.segments[len(a.segments)]) if p.numel()) >= a.next_position
    assert torch.isfinite(logits(two, made)).all()


def test_states_of_a_system_prompt_and_more_are_not_cut_apart(two, session):
    a = compact(session, two.engine, Plan("kvzip", 4, policy=Policy(pin=())))
    assert compose([a, a], drop_head=True).next_position == 2 * a.next_position


def test_states_of_a_later_context_know_nothing_of_the_earlier_one(tiny, ids):
    """Nothing was evicted here; what differs from reading both in one go is what composition costs."""
    pair = tiny("llama")
    first, second = ids(20, 0), ids(30, 1)

    def states(past):
        at = torch.arange(past.next_position, past.next_position + len(second))
        _, read = pair.engine.capture(past, second, at)
        return keep_pairs(read, [None] * len(read.keys))

    a = CompactContext((token_segment(first, 0),), len(first))
    alone = CompactContext((states(KVContext(pair.model)),), len(second))
    after = CompactContext((*a.segments, states(pair.engine.open(a))), len(first) + len(second))
    one_go = logits(pair, compose([a, CompactContext((token_segment(second, 0),), len(second))]))
    put, read = logits(pair, compose([a, alone])), logits(pair, after)
    assert close(read, one_go, PASS)
    apart = (one_go.softmax(-1) * (one_go.log_softmax(-1) - put.log_softmax(-1))).sum(-1).mean()
    assert 1e-3 < apart < float("inf")


def test_the_sizes_of_a_joined_context_are_those_of_its_memory(two, session):
    contexts = [compact(session, two.engine, Plan(latent, 4)) for latent in ("kvzip", "virtual_tokens:steps=1")]
    made = join(contexts, two.engine, drop_head=True)
    live = two.engine.open(made)
    assert made.evidence["bytes"] == live.nbytes
    assert made.evidence["tokens"] == live.next_position == made.next_position
    assert [e["bytes"] for e in made.evidence["parts"]] == [c.evidence["bytes"] for c in contexts]


def test_bytes_are_counted_without_opening(pair, session):
    for latent in ("kvzip", "streaming", "truncate", "virtual_tokens:steps=1"):
        context = compact(session, pair.engine, Plan(latent, 5))
        assert context_bytes(context, pair.model.family, 4) == pair.engine.open(context).nbytes


def test_a_composed_context_is_saved_and_loaded(two, session, tmp_path):
    a = compact(session, two.engine, Plan("kvzip", 4))
    made = join([a, a], two.engine, drop_head=True)
    loaded = holdfast_file.load(holdfast_file.save(made, tmp_path / "a.holdfast", two.model), two.model)
    assert torch.equal(logits(two, loaded), logits(two, made))
    assert [part["segments"] for part in loaded.recipe["parts"]] == [part["segments"] for part in made.recipe["parts"]]
    assert [s.origins for s in loaded.segments] == [s.origins for s in made.segments]


def test_contexts_of_different_models_are_not_composed(tiny, ids):
    a, b = verbatim(tiny("llama"), ids, 5, 0), verbatim(tiny("llama", 1), ids, 5, 0)
    with pytest.raises(BadContext, match="different models"):
        compose([a, b])
    with pytest.raises(BadInput, match="at least one"):
        compose([])
    assert compose([a, replace(b, model_digest="")]).model_digest == a.model_digest


def test_what_is_longer_than_the_model_reads_is_not_joined(tiny, ids):
    pair = tiny("llama")
    with pytest.raises(BadInput, match="join fewer"):
        join([verbatim(pair, ids, 5000, 0), verbatim(pair, ids, 5000, 1)], pair.engine)


def test_compacting_the_halves_of_a_session_keeps_the_places_of_the_whole(two, session):
    """Halves composed and the whole, verbatim: the same tokens at the same positions."""
    blocks = render(session, two.model.tokenizer).blocks
    cut = sum(map(len, blocks[:6]))
    ids = [i for b in blocks for i in b.ids]
    halves = [CompactContext((token_segment(part, 0),), len(part)) for part in (ids[:cut], ids[cut:])]
    whole = CompactContext((token_segment(ids, 0),), len(ids))
    got, want = logits(two, compose(halves)), logits(two, whole)
    assert close(got, want, PASS)
