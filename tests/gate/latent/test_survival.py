"""What counts as lost: nothing in a memory that nobody changed, and else what a repeat by hand finds."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gated import HEAD, TEXT, gated, past_of, span_of, work_of
from holdfast.blocks.block import Kind
from holdfast.blocks.render import render
from holdfast.compaction.compact import compact
from holdfast.compaction.plan import Plan, Policy
from holdfast.context.budget import Budget
from holdfast.context.segments import TokenSegment
from holdfast.context.surgery import keep_pairs
from holdfast.facts.fact import FactKind, TextFact
from holdfast.gate.latent.fact_tokens import FactTokens, locate_facts
from holdfast.gate.latent.gate import Gate, GatedSpan
from holdfast.gate.latent.survival import UNREADABLE, Survival, find_runs, measure_fall
from holdfast.methods.registry import build
from holdfast.methods.repeat_prompt import CHUNK, prompt_ids, score_repeat
from holdfast.transcript.turn import Role, Transcript, Turn
from tolerance import near

TINY = 1e-3
LONG = "".join(f"line {n}: port {8000 + n} at src/m{n}.py\n" for n in range(16))  # more than one repeat


def located(first, last):
    return FactTokens(TextFact(FactKind.NUMBER, "7", (0, 1)), 0, (first, last))


def survival_of(work, segments, threshold=TINY):
    """As the gate measures it."""
    told = score_repeat(work.build_memory(segments), work.span.ids)
    return Survival(
        measure_fall(work.prefill().repeat_log_probs, told), torch.arange(*work.span.blocks[0].origin.tokens), threshold
    )


@pytest.mark.parametrize("head", ["", HEAD])
@pytest.mark.parametrize("text", ["ab", TEXT, LONG], ids=["2 tokens", "short", "long"])
def test_a_memory_that_nobody_changed_loses_nothing(pair, head, text):
    work = work_of(pair.engine, "kvzip", 2, head, text)
    states = work.study.prefill.states
    whole = (keep_pairs(states, [None] * len(states.keys)),)
    verbatim = (TokenSegment(work.span.ids, work.span.positions),)
    for segments in (whole, verbatim):
        survived = survival_of(work, segments)
        assert survived.fall.abs().max() < TINY
        assert not survived.loss_mask.any()
        assert survived.spans() == []
        assert not [x for x in locate_facts(work.span.blocks, pair.model.tokenizer) if survived.is_lost(x)]


def test_a_budget_that_holds_the_span_loses_nothing(pair):
    work = work_of(pair.engine, "kvzip", 1)
    assert work.budget.holds(len(work.span))
    _, report = gated(Gate(threshold=TINY, ask="repeat"), work)
    assert report.tokens == len(work.span)
    assert (report.lost, report.repaired, report.spans_lost, report.falls) == ([], [], [], [])
    assert report.skills["full"] == near(report.skills["compact"])


@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
def test_a_half_precision_memory_that_nobody_changed_loses_nothing(tiny, family):
    engine = tiny(family, dtype=torch.bfloat16).engine
    _, report = gated(Gate(ask="repeat"), work_of(engine, "kvzip", 1))
    assert report.spans_lost == []


def test_what_the_full_memory_says_is_what_the_plain_model_says(pair):
    """One forward pass of transformers over everything for each piece that is repeated."""
    past = past_of(pair.engine)
    span = span_of(pair.engine, past.next_position, LONG)
    after, _ = pair.engine.capture(past, span.ids, span.positions)
    prompt = prompt_ids(pair.model)
    before = [*pair.model.tokenizer(HEAD, add_special_tokens=False)["input_ids"], *span.ids.tolist(), *prompt]
    want = []
    assert len(span) > CHUNK
    for at in range(0, len(span), CHUNK):
        said = span.ids[at : at + CHUNK]
        with torch.no_grad():
            logits = pair.plain(torch.tensor([[*before, *said.tolist()]])).logits[0, len(before) - 1 : -1]
        want.append(logits.log_softmax(-1).gather(1, said[:, None])[:, 0])
    assert (score_repeat(after, span.ids) - torch.cat(want)).abs().max() < TINY


@pytest.mark.parametrize("latent", ["kvzip", "truncate"])
def test_survival_is_what_a_repeat_by_hand_finds(two, latent):
    work = work_of(two.engine, latent, 4, text=LONG)
    made = work.method.compress(work.study, work.budget)
    prompt, falls = prompt_ids(two.model), []
    after, _ = two.engine.capture(work.past, work.span.ids, work.span.positions)
    for at in range(0, len(work.span), CHUNK):
        said = work.span.ids[at : at + CHUNK]
        told = []
        for memory in (after, work.build_memory(made)):
            logits = two.engine.next_logits(memory, [*prompt, *said.tolist()])[len(prompt) - 1 : -1]
            told.append(logits.log_softmax(-1).gather(1, said[:, None])[:, 0])
        falls.append(told[0] - told[1])
    fall = torch.cat(falls)
    got = survival_of(work, made, threshold=1.0)
    assert (got.fall - fall).abs().max() < TINY
    assert fall.max() > 1
    _, report = gated(Gate(repair=False, ask="repeat"), work)
    start = work.span.blocks[0].origin.tokens[0]
    lost = [start + i for i in (fall > 1).nonzero()[:, 0].tolist()]
    assert [i for a, b in report.spans_lost for i in range(a, b)] == lost
    assert report.nats_lost == near(float(fall.clamp_min(0).sum()))


@given(st.sets(st.integers(0, 60)))
def test_ranges_are_the_longest_runs(numbers):
    found = find_runs(torch.tensor(sorted(numbers), dtype=torch.int64))
    assert [i for a, b in found for i in range(a, b)] == sorted(numbers)
    assert all(a < b for a, b in found)
    assert all(one[1] < two[0] for one, two in pairwise(found))


def test_an_atom_is_found_behind_a_gap_and_runs_end_at_one():
    index = torch.tensor([0, 1, 2, 10, 11, 12, 13])
    survived = Survival(torch.tensor([0.0, 0.0, 2.0, 2.0, 0.6, 0.6, 0.0]), index, 1.0)
    assert survived.token_slice(located(10, 12)) == slice(3, 5)
    assert survived.nats(located(11, 13)) == pytest.approx(1.2)
    assert survived.spans() == [(2, 3), (10, 11)]


def test_an_atom_is_lost_by_one_token_or_by_all_together_and_at_the_threshold_is_not():
    index = torch.arange(4)
    survived = Survival(torch.tensor([0.6, 0.6, 1.5, -2.0]), index, 1.0)
    assert survived.is_lost(located(0, 2))  # neither token fell by a nat, both together did
    assert survived.is_lost(located(2, 4))  # one fell, though the other made up for it
    assert not survived.is_lost(located(0, 1))
    assert not Survival(torch.tensor([1.0]), torch.arange(1), 1.0).loss_mask.any()


def test_a_memory_that_gives_no_number_has_lost_the_token():
    full, compact = torch.tensor([-1.0, -1.0, math.nan, -1.0]), torch.tensor([-2.0, math.nan, -1.0, -math.inf])
    assert measure_fall(full, compact).tolist() == [1.0, UNREADABLE, UNREADABLE, UNREADABLE]


def test_losses_of_a_session_with_a_gap_stand_where_the_session_has_them(two):
    """The head of a windowed session stands far before the rest; without pins both are one span."""
    turns = [Turn(Role.SYSTEM, "Ports: 7001, 7002 in src/head.py."), Turn(Role.USER, "Count /srv/one and 4711.")]
    for n in range(12):
        turns += [Turn(Role.ASSISTANT, f"Look {n}."), Turn(Role.USER, f"port {9000 + 7 * n} in src/m{n}.py")]
    session = Transcript(tuple(turns))
    rendered, tokenizer = render(session, two.model.tokenizer), two.model.tokenizer
    policy = Policy(pin=(), window=300, keep_recent=0)
    gate = compact(session, two.engine, Plan("kvzip", 6, policy=policy, gate=Gate(ask="repeat"))).evidence["gate"]
    head = next(b for b in rendered.blocks if b.kind is not Kind.SYSTEM).origin.tokens[0]
    entries = [*gate["lost"], *gate["repaired"]]
    assert {entry["tokens"][0] < head for entry in entries} == {True, False}  # losses on both sides of the gap
    for entry in entries:
        assert entry["text"] in tokenizer.decode(rendered.ids[slice(*entry["tokens"])])
        assert any(b.origin.turn == entry["turn"] and b.origin.tokens[0] <= entry["tokens"][0] for b in rendered.blocks)
    assert gate["tokens"] < len(rendered.ids)
    spans = [*gate["spans_lost"], *gate["spans_repaired"]]
    assert all(0 <= a < b <= len(rendered.ids) for a, b in spans)


def test_a_method_may_be_asked_about_a_part_of_a_block(two):
    """A window cuts through a block; its origin says which tokens are left."""
    work = work_of(two.engine, "kvzip", 3)
    block = work.span.blocks[0]
    origin = block.origin
    late = type(origin)(origin.turn, origin.kind, origin.chars, (origin.tokens[0] + 20, origin.tokens[1]))
    span = type(work.span)((type(block)(block.ids[20:], late),), work.span.start)
    method = build("kvzip")
    study = method.study(span, work.past, two.engine)
    _, report = gated(Gate(ask="repeat"), GatedSpan(method, study, Budget(len(span) // 6), span, work.past, two.engine))
    ids = [0] * origin.tokens[0] + list(block.ids)
    assert report.lost
    for entry in report.lost:
        assert entry["text"] in two.model.tokenizer.decode(ids[slice(*entry["tokens"])])
