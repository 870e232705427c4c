"""Each fact asked behind a few tokens of its own: what is asked, and what counts as lost."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from conftest import build_pair
from gated import gated, past_of, span_of, work_of
from holdfast.engine.local import Continuation
from holdfast.errors import BadOption
from holdfast.facts.fact import FactKind
from holdfast.gate.latent.cue import CUE, LONGEST, RULE_SHARE, CueCheck, CueSurvival
from holdfast.gate.latent.fact_tokens import locate_facts
from holdfast.gate.latent.gate import Gate
from holdfast.progress import quiet
from tolerance import PASS, near


@pytest.fixture(scope="module")
def two():
    return build_pair("llama")


def facts_of(work):
    return locate_facts(work.span.blocks, work.engine.model.tokenizer)


def check_of(work):
    return work.check(facts_of(work), work.prefill())


def by_hand(work, live, found):
    """The log-probability of a fact behind its cue over a memory."""
    first, last = (at - work.span.start for at in found.tokens)
    ids = work.span.ids.tolist()
    row = Continuation(tuple(ids[max(0, first - CUE) : first]), tuple(ids[first:last][:LONGEST]))
    return float(work.engine.score(live, [row])[0].sum())


@pytest.mark.parametrize("latent", ["kvzip", "truncate"])
def test_a_fact_fell_by_what_its_own_cue_finds(two, latent):
    work = work_of(two.engine, latent, 8)
    memory = work.build_memory(work.method.compress(work.study, work.budget))
    got, full = check_of(work).measure(memory, 1.0, 0.4, quiet), work.prefill().after
    none = work.past.extend((), work.end)
    facts = [found for found in facts_of(work) if found.tokens[0] > work.span.start]
    assert facts
    for found in facts:
        fall = by_hand(work, full, found) - by_hand(work, memory, found)
        supply = by_hand(work, full, found) - by_hand(work, none, found)
        assert got.nats(found) == near(fall, PASS * len(work.span))
        assert got.supply[found] == near(supply, PASS * len(work.span))
        if found.fact.kind not in (FactKind.PROHIBITION, FactKind.INSTRUCTION):
            assert got.is_lost(found) == (fall > 0.4 * max(supply, 1.0))


def test_the_full_memory_loses_nothing_and_no_memory_loses_what_it_supplies(two):
    work = work_of(two.engine, "kvzip", 8)
    check = check_of(work)
    kept = check.measure(work.prefill().after, 1e-3, 0.01, quiet)
    assert not kept.loss_mask.any()
    gone = check.measure(work.past.extend((), work.end), 1e-3, 0.01, quiet)
    supplied = {found for found, nats in gone.supply.items() if nats > 0.1}
    assert supplied
    assert all(gone.is_lost(found) for found in supplied)
    assert gone.spans()


def test_a_fact_that_stands_twice_is_asked_for_once_where_it_stands_last(two):
    past = past_of(two.engine)
    span = span_of(two.engine, past.next_position, "cat src/app.py\nand again cat src/app.py now\n")
    facts = locate_facts(span.blocks, two.model.tokenizer)
    assert len(facts) > len({found.fact.text for found in facts})
    after, _ = two.engine.capture(past, span.ids, span.positions)
    got = CueCheck(facts, span, (after, past), two.engine).measure(past, 1.0, 0.4, quiet)
    same = [found for found in facts if found.fact.text == "src/app.py"]
    assert len({got.nats(found) for found in same}) == 1
    first, last = (got.fall[got.token_slice(found)] for found in same)
    assert not first.any()
    assert last.any()


def test_a_span_that_begins_with_a_fact_and_one_without_facts_are_measured(two):
    begins = work_of(two.engine, "kvzip", 4, text="src/app.py is where it all begins, in short\n")
    found = facts_of(begins)[0]
    assert found.tokens[0] == begins.span.start
    assert torch.isfinite(check_of(begins).measure(begins.past, 1.0, 0.4, quiet).fall).all()
    _, report = gated(
        Gate(ask="cue"), work_of(two.engine, "kvzip", 4, text="nothing here is a fact at all, is it\n" * 3)
    )
    assert (report.lost, report.spans_lost, report.nats_lost) == ([], [], 0.0)


@pytest.mark.parametrize("kind", [FactKind.PROHIBITION, FactKind.INSTRUCTION, FactKind.PATH])
def test_a_rule_counts_as_lost_long_before_another_fact(two, kind):
    work = work_of(two.engine, "kvzip", 8)
    found = facts_of(work)[0]
    found = replace(found, fact=replace(found.fact, kind=kind))
    nothing, index = torch.zeros(len(work.span)), torch.arange(work.span.start, work.end)
    falls = [0.4 / RULE_SHARE * times for times in (0.9, 1.1, 3.9, 4.1)]  # of what is supplied: 5 nats
    lost = [CueSurvival(nothing, index, 1.0, 0.4, {found: 5.0}, {found: 5 * fall}).is_lost(found) for fall in falls]
    assert lost == [False, kind is not FactKind.PATH, kind is not FactKind.PATH, True]


@pytest.mark.parametrize("options", [{"ask": "both"}, {"share": 0.0}, {"share": 1.0}, {"share": float("nan")}])
def test_what_cannot_be_asked_is_refused(options):
    with pytest.raises(BadOption, match="gate: "):
        Gate(**options)
