"""Bad input and bad luck: a clear error, and everything as it was."""

from __future__ import annotations

import copy
from contextlib import suppress
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from holdfast.blocks.block import Block, Kind, Origin
from holdfast.blocks.render import render
from holdfast.compaction.compact import compact
from holdfast.compaction.partition import Part, parts, ratio_for, spans
from holdfast.compaction.plan import Plan, Policy
from holdfast.compaction.walk import SharedStudy, compact_in_memory
from holdfast.context.budget import budget_from_ratio
from holdfast.context.segment_tensors import name_tensors
from holdfast.context.segments import CompactContext, StateSegment
from holdfast.engine.kv_context import KVContext, open_context
from holdfast.engine.local import LocalEngine
from holdfast.errors import BadOption, UnsupportedModel
from holdfast.gate.latent.gate import Gate
from holdfast.methods.base import Span
from holdfast.methods.registry import LATENT, build
from holdfast.model.load import adopt_model

PROBE = [20, 30, 40]
FEW = {"virtual_tokens_attention": "question=Which port?,steps=2", "virtual_tokens_distilled": "distil=1,steps=2"}


def spec(name):
    if name == "surrogate":
        return f"{name}:otherwise=informed"  # tiny models have none
    if name in ("icae", "restore", "projector"):
        return f"{name}:weights=untrained"
    return f"{name}:{FEW.get(name, 'steps=2')}" if "virtual" in name else name


def unwanted(what, done, total, note=""):
    raise AssertionError("work was done")


def cut_of(session, engine, policy=None):
    return parts(session, render(session, engine.model.tokenizer), policy or Policy())


def held(context, family):
    """Slots a head, on average over the full layers."""
    pairs = sum(
        sum(sum(s.layers[layer].lengths) for layer in family.full) / family.kv_heads / len(family.full)
        if isinstance(s, StateSegment)
        else len(s)
        for s in context.segments
    )
    return round(pairs, 6)


# ratios and budgets


@pytest.mark.parametrize("gate", [None, Gate()])
@pytest.mark.parametrize("ratio", [0.999, 0, -8, float("nan"), float("inf"), float("-inf")])
def test_a_senseless_ratio_is_refused_before_any_work(tiny, session, ratio, gate):
    with pytest.raises(BadOption, match=r"ratio must be a finite number of at least 1, got .*; 8 means"):
        compact(session, tiny("llama").engine, Plan("kvzip", ratio, gate=gate), unwanted)


@pytest.mark.parametrize("slots", [-1, 0, 1, 40])
@pytest.mark.parametrize("by_turn", [False, True])
def test_a_budget_below_what_is_pinned_is_refused_before_any_work(tiny, session, slots, by_turn):
    engine = tiny("llama").engine
    pinned = sum(len(p) for p in cut_of(session, engine) if not p.compact)
    with pytest.raises(BadOption, match=rf"a budget of {slots} slots does not hold the {pinned} tokens that stay"):
        compact(session, engine, Plan("kvzip", by_turn=by_turn, slots=slots), unwanted)


def test_a_budget_below_what_is_pinned_is_refused_where_nothing_is_compacted(tiny, session):
    engine = tiny("llama").engine
    policy = Policy(keep_recent=99)
    length = len(render(session, engine.model.tokenizer).ids)
    with pytest.raises(BadOption, match="does not hold"):
        compact(session, engine, Plan("kvzip", policy=policy, slots=length - 1), unwanted)
    assert held(compact(session, engine, Plan("kvzip", policy=policy, slots=length)), engine.model.family) == length


@pytest.mark.parametrize("by_turn", [False, True])
@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
def test_a_budget_is_the_slots_of_the_whole_context(tiny, session, family, by_turn):
    engine = tiny(family).engine
    cut = cut_of(session, engine)
    pinned = sum(len(p) for p in cut if not p.compact)
    lengths = [len(s) for p in cut for s in spans(p, by_turn)]
    least = pinned + len(lengths)
    for slots in (least, least + 7, least + 61, pinned + sum(lengths) - 1, 10**6):
        context = compact(session, engine, Plan("kvzip", 99, by_turn=by_turn, slots=slots))
        got = held(context, engine.model.family)
        assert got <= slots
        assert got > min(slots, pinned + sum(lengths)) - len(lengths)  # each span rounds down by less than one
    with pytest.raises(BadOption, match="one slot for each"):
        compact(session, engine, Plan("kvzip", by_turn=by_turn, slots=least - 1), unwanted)


def part_of(length, compacted):
    return Part((Block((5,) * length, Origin(0, Kind.OBSERVATION, (0, 0), (0, length))),), 0, compacted)


@given(st.lists(st.integers(1, 400), min_size=1, max_size=8), st.integers(0, 50), st.integers(0, 900))
def test_a_ratio_for_a_budget_spends_it_and_no_more(lengths, pinned, more):
    cut = [part_of(n, compacted=True) for n in lengths] + ([part_of(pinned, compacted=False)] if pinned else [])
    slots = pinned + len(lengths) + more
    ratio = ratio_for(cut, slots)
    assert ratio >= 1
    kept = [budget_from_ratio(n, ratio).slots for n in lengths]
    assert sum(kept) <= slots - pinned
    if len(lengths) == 1:
        assert kept == [min(lengths[0], slots - pinned)]  # no slot is lost to rounding
    assert sum(kept) > min(slots - pinned, sum(lengths)) - len(lengths)


def test_a_budget_counts_for_a_walk_over_parts_too(tiny, session):
    engine = tiny("llama").engine
    cut = cut_of(session, engine)
    context, _ = compact_in_memory(cut, engine, Plan("kvzip", slots=260))
    assert held(context, engine.model.family) <= 260


# spans shorter than a method needs


def short_span(length, start):
    ids = tuple(range(40, 40 + length))
    return Span((Block(ids, Origin(0, Kind.OBSERVATION, (0, length), (start, start + length))),), start)


def compressed(engine, latent, span, past):
    """What a method makes of a span at a very high ratio; None where it says that the span is too short."""
    method = build(latent)
    with suppress(BadOption):
        return method.compress(method.study(span, past, engine), budget_from_ratio(len(span), 50))
    return None


SHORT = [*(spec(name) for name in LATENT if name not in ("surrogate_stream", "anchors")), "kvzip:storage=int8"]
"""The contract tests train what the surrogate stream needs; anchors serve one of the two models only."""


@pytest.mark.parametrize("latent", [*SHORT, "kvzip:allocation=pyramid,cap=1,floor=1"])
def test_the_shortest_spans_work_or_say_why_not(two, latent):
    for start in (0, 12):
        past = KVContext(two.model)
        with torch.no_grad():
            past.feed(list(range(60, 60 + start)))
        for length in (1, 3):
            made = compressed(two.engine, latent, short_span(length, start), past)
            assert made or "hybrid" in latent
            live = past.fork()
            with torch.no_grad():
                for segment in made or ():
                    live.append(segment)
            live.settle(start + length)
            assert held(CompactContext(made or (), start + length), two.model.family) <= 1
            assert not made or torch.isfinite(two.engine.next_logits(live, PROBE)).all()


@pytest.mark.parametrize("latent", ["virtual_tokens_hybrid:steps=2", "virtual_tokens_hybrid_perplexity:steps=2"])
def test_a_span_too_short_for_a_hybrid_is_refused_with_the_way_out(two, latent):
    method, span = build(latent), short_span(2, 0)
    with pytest.raises(BadOption, match=r"too short for a hybrid at this ratio \(use a lower ratio"):
        method.compress(method.study(span, KVContext(two.model), two.engine), budget_from_ratio(2, 50))


@pytest.mark.parametrize("latent", ["informed", "snapkv", "truncate", "pool"])
def test_short_turns_of_a_session_pass_the_gate(two, session, latent):
    context = compact(session, two.engine, Plan(latent, 1000, by_turn=True, gate=Gate()))
    gate = context.evidence["gate"]
    assert torch.isfinite(two.engine.next_logits(two.engine.open(context), PROBE)).all()
    assert gate["tokens"] == sum(len(p) for p in cut_of(session, two.engine) if p.compact)


# models


def test_a_model_without_rotary_positions_is_refused_by_its_name(tokenizer_with):
    from transformers import GPT2Config, GPT2LMHeadModel

    plain = GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=320, n_positions=32))
    with pytest.raises(UnsupportedModel, match=r"'gpt2'.*llama") as refused:
        LocalEngine(adopt_model(plain, tokenizer_with(), name="gpt2"))
    assert refused.value.exit_code == 2


def test_a_model_that_only_slides_is_refused(tiny_plain, tokenizer_with):
    with pytest.raises(UnsupportedModel, match=r"layers 0 to 2 .* all slide over 8 tokens"):
        LocalEngine(adopt_model(tiny_plain("mistral", sliding_window=8), tokenizer_with(), name="sliding"))


def test_a_context_is_taken_to_the_device_of_the_memory(tiny, session):
    """Segments may lie elsewhere; one that holds no data cannot be taken, and leaves the memory as it was."""
    engine = tiny("llama").engine
    context = compact(session, engine, Plan("kvzip", 4))
    live = open_context(engine.model, context)
    state = next(s for s in context.segments if isinstance(s, StateSegment))
    empty = replace(state, layers=tuple(s.to("meta", torch.float32) for s in state.layers))
    before = live.next_position, live.nbytes, engine.next_logits(live, PROBE)
    with pytest.raises(NotImplementedError, match="meta"):
        live.append(empty)
    assert (live.next_position, live.nbytes) == before[:2]
    assert torch.equal(engine.next_logits(live, PROBE), before[2])


# bad luck


class Stopping:
    """A progress that raises at its call number `at`; 0 never does."""

    def __init__(self):
        self.at, self.error, self.calls = 0, RuntimeError(), 0

    def __call__(self, what, done, total, note=""):
        self.calls += 1
        if self.calls == self.at:
            raise self.error


STOPPED = ("informed", "attention_match", "virtual_tokens:steps=3", "refine:steps=3")


@pytest.mark.parametrize("latent", STOPPED)
def test_a_session_that_is_stopped_anywhere_can_be_compacted_as_if_nothing_had_been(tiny, session, latent):
    two = tiny("gemma3_text")
    cut, progress = cut_of(session, two.engine)[:3], Stopping()
    kept, given = copy.deepcopy(session), copy.deepcopy(cut)
    plan = Plan(latent, 6, gate=Gate())
    want, live = compact_in_memory(cut, two.engine, plan, progress)
    logits = two.engine.next_logits(live, PROBE)
    steps, shared = progress.calls, SharedStudy()
    errors = (KeyboardInterrupt(), MemoryError(), RuntimeError("DefaultCPUAllocator: not enough memory"))
    for turn, at in enumerate(sorted({1, steps // 3, steps - 1, steps} - {0})):
        progress.at, progress.calls, progress.error = at, 0, errors[turn % len(errors)]
        with pytest.raises(type(progress.error)):
            compact_in_memory(cut, two.engine, plan, progress, SharedStudy())
        progress.calls = 0
        if shared.study is None:
            with pytest.raises(type(progress.error)):
                compact_in_memory(cut, two.engine, plan, progress, shared)
    progress.at = 0
    assert (session, cut) == (kept, given)
    assert torch.is_grad_enabled()
    assert torch.equal(two.engine.next_logits(live, PROBE), logits)
    again, after = compact_in_memory(cut, two.engine, plan, progress, shared)
    one, other = (name_tensors(context) for context in (again, want))
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(one, other, strict=True))
    assert torch.equal(two.engine.next_logits(after, PROBE), logits)
