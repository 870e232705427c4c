"""Repair: never worse, never beyond what is allowed, and it gives back what the lost tokens were read from."""

from __future__ import annotations

from itertools import cycle

import pytest
import torch

from gated import HEAD, TEXT, gated, pairs_in, past_of, same, span_of, work_of
from holdfast.context import holdfast_file
from holdfast.context.segments import CompactContext, StateSegment
from holdfast.engine.local import LocalEngine
from holdfast.gate.latent.fact_tokens import build_fact_mask
from holdfast.gate.latent.gate import Gate
from holdfast.gate.latent.repair import LEAST_ATTENTION, make_scores_finite, measure_carriers, prefer_carriers
from holdfast.methods.base import RankedStudy
from holdfast.methods.eviction import Eviction
from holdfast.methods.reference_queries import SpanPrefill
from holdfast.methods.registry import LATENT, load_class
from holdfast.methods.repeat_prompt import prompt_ids, score_repeat
from holdfast.model.load import adopt_model
from tolerance import PASS, close, near

EVICTING = [name for name, entry in LATENT.items() if issubclass(load_class(entry), Eviction) and name != "surrogate"]
EVICTING += ["surrogate:otherwise=informed"]  # tiny models have no surrogate of their own
RANKED = [*EVICTING, "attention_match", "merge", "hybrid", "kvzip:storage=int8", "informed:cap=2,floor=0.2"]


def test_the_methods_that_can_be_repaired_are_those_that_rank_pairs(tiny):
    assert {"informed", "kvzip", "kvzip_per_head", "snapkv", "h2o", "random"} <= set(EVICTING)
    for latent in RANKED:
        assert isinstance(work_of(tiny("llama").engine, latent, 4).study, RankedStudy)
    for latent in ("truncate", "pool", "virtual_tokens:steps=1"):
        assert not isinstance(work_of(tiny("llama").engine, latent, 4).study, RankedStudy)


def fallen_facts(work, told):
    """Nats by which the tokens of facts fell together."""
    fall, held = (
        (work.prefill().repeat_log_probs - told).clamp_min(0),
        build_fact_mask(work.span.blocks, work.engine.model.tokenizer),
    )
    return float(fall[held].sum())


@pytest.mark.parametrize(("latent", "family"), [*zip(RANKED, cycle(("llama", "gemma3_text")), strict=False)])
def test_repair_is_never_worse_and_never_beyond_what_is_allowed(tiny, latent, family):
    two = tiny(family)
    work = work_of(two.engine, latent, 4)
    heads = len(two.model.family.full) * two.model.family.kv_heads
    plain, end = work.method.compress(work.study, work.budget), work.span.start + len(work.span)
    scores = {layer: s.clone() for layer, s in work.study.scores.items()}
    for over in (0.0, 0.1, 0.75):
        made, report = gated(Gate(allow_over=over, ask="repeat"), work)
        most = work.budget.slots + int(over * work.budget.slots)
        assert 0 < pairs_in(made, two.model.family) <= most * heads
        assert report.slots_over in (0, most - work.budget.slots)
        if not report.slots_over:
            assert pairs_in(made, two.model.family) <= work.budget.slots * heads
        # what the report says is what the segments do
        told = [score_repeat(work.build_memory(x), work.span.ids) for x in (plain, made)]
        lost = [float((work.prefill().repeat_log_probs - t).clamp_min(0).sum()) for t in told]
        assert report.nats_lost_first == near(lost[0], PASS * len(work.span))
        assert report.nats_lost == near(lost[1], PASS * len(work.span))
        # of the facts, which alone are repaired, never more is lost; of the rest it may be
        facts = [fallen_facts(work, t) for t in told]
        assert facts[1] < facts[0] or facts[1] == near(facts[0])
        changed = not same(CompactContext(made, end), CompactContext(plain, end))
        assert facts[1] < facts[0] if changed else facts[1] == near(facts[0])
        assert changed or not report.slots_over
    assert all(torch.equal(work.study.scores[layer], s) for layer, s in scores.items())


def test_bytes_stay_within_the_budget_where_slots_are_coded(two):
    work = work_of(two.engine, "kvzip:storage=int8", 4)
    plain = work.build_memory(work.method.compress(work.study, work.budget)).nbytes
    made, _ = gated(Gate(ask="repeat"), work)
    assert work.build_memory(made).nbytes == plain


def test_repair_brings_something_back(two):
    """Random slots lose much that a second look can bring back."""
    work = work_of(two.engine, "random", 2)
    _, measured = gated(Gate(repair=False, ask="repeat"), work)
    _, repaired = gated(Gate(ask="repeat"), work)
    assert repaired.nats_lost_first == measured.nats_lost
    assert len(repaired.lost) < len(measured.lost)
    assert repaired.repaired
    assert repaired.spans_repaired
    assert (measured.repaired, measured.spans_repaired) == ([], [])


def test_more_room_brings_more_back(two):
    work = work_of(two.engine, "random", 4)
    tight, roomy = (gated(Gate(allow_over=over, ask="repeat"), work)[1] for over in (0.0, 1.0))
    assert roomy.nats_lost < tight.nats_lost
    assert len(roomy.lost) <= len(tight.lost)


@pytest.mark.parametrize("family", ["llama", "qwen3", "phi3-partial", "gemma3_text"])
def test_carriers_are_what_the_plain_model_attends_to(tiny_plain, tokenizer_with, family):
    """One pass of transformers' own attention over head, span, request and repeat."""
    plain = tiny_plain(family)
    plain.set_attn_implementation("eager")
    engine = LocalEngine(adopt_model(tiny_plain(family), tokenizer_with(), name="tiny"))
    past = past_of(engine)
    span = span_of(engine, past.next_position)
    read = SpanPrefill(span, past, *engine.capture(past, span.ids, span.positions), engine, lambda *_: None)
    lost = torch.zeros(len(span), dtype=torch.bool)
    lost[[0, 17, 40]] = True
    got = measure_carriers(read, lost)

    head = engine.model.tokenizer(HEAD, add_special_tokens=False)["input_ids"]
    prompt = prompt_ids(engine.model)
    ids = [*head, *span.ids.tolist(), *prompt, *span.ids.tolist()]
    with torch.no_grad():
        attention = plain(torch.tensor([ids]), output_attentions=True).attentions
    rows = len(head) + len(span) + len(prompt) - 1 + lost.nonzero()[:, 0]
    for layer in engine.model.family.full:
        heads = attention[layer][0][:, rows, len(head) : len(head) + len(span)]  # [H, lost, T]
        want = heads.view(engine.model.family.kv_heads, -1, len(rows), len(span)).amax((1, 2))
        assert close(got[layer], want, PASS)
    assert set(got) == set(engine.model.family.full)


def test_only_chunks_with_a_loss_are_repeated_and_none_without(two):
    work = work_of(two.engine, "kvzip", 4, text=TEXT * 4)
    read = work.prefill()
    nothing = measure_carriers(read, torch.zeros(len(work.span), dtype=torch.bool))
    assert not any(s.any() for s in nothing.values())
    late = torch.zeros(len(work.span), dtype=torch.bool)
    late[-1] = True
    assert len(work.span) > 256
    assert all(s.any() for s in measure_carriers(read, late).values())


def test_the_strongest_carriers_come_first_and_no_other_score_is_touched():
    scores = {0: torch.tensor([[0.5, -2.0, 0.0, 9.0]]), 1: torch.tensor([[1.0, 1.0, 1.0, 1.0]])}
    carry = {0: torch.tensor([[0.2, 0.9, 0.1, LEAST_ATTENTION / 2]]), 1: torch.tensor([[0.0, 0.0, 0.8, 0.0]])}
    kept = {layer: s.clone() for layer, s in scores.items()}
    got = prefer_carriers(scores, carry, 1.0)  # two heads, so two pairs
    assert got[0].tolist() == [[0.5, torch.inf, 0.0, 9.0]]
    assert got[1].tolist() == [[1.0, 1.0, torch.inf, 1.0]]
    assert prefer_carriers(scores, carry, 4.0)[0][0, 3] == 9.0  # what carries next to nothing is no carrier
    assert all(torch.equal(scores[layer], s) for layer, s in kept.items())


@pytest.mark.parametrize("latent", RANKED)
def test_what_was_repaired_can_be_stored_and_read_again(two, latent, tmp_path):
    """Worths are stored with the slots, and a file holds finite numbers alone."""
    work = work_of(two.engine, latent, 4)
    lost = torch.ones(len(work.span), dtype=torch.bool)
    scores = prefer_carriers(work.study.scores, measure_carriers(work.prefill(), lost), 0.5 * work.budget.slots)
    made = make_scores_finite(work.method.compress(work.study.with_scores(scores), work.budget))
    end = work.span.start + len(work.span)
    context = CompactContext(made, end)
    loaded = holdfast_file.load(holdfast_file.save(context, tmp_path / "a", two.model), two.model)
    assert same(loaded, context)
    assert all(torch.isfinite(x).all() for s in loaded.segments if isinstance(s, StateSegment) for x in s.scores)
    assert torch.isfinite(two.engine.next_logits(work.build_memory(made), [20, 30])).all()


def test_a_repaired_context_is_still_a_context(two):
    work = work_of(two.engine, "informed", 3)
    made, report = gated(Gate(allow_over=0.3, ask="repeat"), work)
    end = work.span.start + len(work.span)
    context = CompactContext(tuple(made), end, model_digest=two.model.digest)
    assert context.next_position == end
    assert work.build_memory(made).next_position == end
    assert report.seconds > 0
