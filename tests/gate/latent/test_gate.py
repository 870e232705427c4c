"""The gate: its arithmetic, what it refuses, and that nothing is changed by it or by a failure in it."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass, replace
from typing import ClassVar

import pytest
import torch

from gated import TEXT, gated, pairs_in, past_of, same, snapshot, span_of, unchanged, work_of
from holdfast.blocks.render import render
from holdfast.compaction.compact import compact
from holdfast.compaction.partition import parts
from holdfast.compaction.plan import Plan, Policy
from holdfast.compaction.walk import SharedStudy, compact_in_memory
from holdfast.context import holdfast_file
from holdfast.context.segments import CompactContext, TokenSegment
from holdfast.context.surgery import keep_pairs
from holdfast.engine.kv_context import KVContext
from holdfast.engine.local import LocalEngine
from holdfast.errors import BadOption, Lost
from holdfast.facts.fact import FactKind, TextFact
from holdfast.gate.latent.fact_tokens import FactTokens, build_fact_mask, locate_facts
from holdfast.gate.latent.gate import NOTABLE_FALL, Gate, LatentReport, compress_through_gate, split_gate_spec
from holdfast.gate.latent.survival import Survival
from holdfast.methods.registry import LATENT, Entry, build
from tolerance import PASS, close

PROBE = [20, 30, 40, 50, 60]
WITHOUT_SCORES = (
    "truncate",
    "virtual_tokens:steps=2",
    "virtual_tokens_hybrid:steps=2",
    "pool",
    "split_by_age",
    "refine:steps=2",
)
NO_MEMORY = RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: not enough memory")


def cut_of(session, engine, policy=None):
    return parts(session, render(session, engine.model.tokenizer), policy or Policy())


@pytest.fixture(scope="module")
def evidence(session, tiny):
    """What the gate says of a session compacted turn by turn."""
    context = compact(session, tiny("llama").engine, Plan("kvzip", 4, by_turn=True, gate=Gate(ask="repeat")))
    return context.evidence["gate"]


def test_law_1_with_a_gate(two, session):
    context = compact(session, two.engine, Plan("kvzip", 1, gate=Gate(threshold=1e-3, strict=True)))
    assert all(isinstance(segment, TokenSegment) for segment in context.segments)
    ids = [*render(session, two.model.tokenizer).ids, *PROBE]
    with torch.no_grad():
        want = two.plain(torch.tensor([ids])).logits[0, -len(PROBE) :]
    got = two.engine.next_logits(two.engine.open(context), PROBE)
    assert close(got, want, PASS)
    gate = context.evidence["gate"]  # asked for and nothing to do is not the same as not asked for
    assert (gate["tokens"], gate["tokens_lost"], gate["lost"], gate["atoms"]) == (0, 0, [], {})
    assert context.recipe["gate"]["strict"] is True


def test_every_atom_is_kept_repaired_or_lost(evidence):
    assert evidence["atoms"]
    for counts in evidence["atoms"].values():
        assert counts["found"] == counts["kept"] + counts["repaired"] + counts["lost"] > 0
    for what in ("lost", "repaired"):
        listed = Counter(entry["kind"] for entry in evidence[what])
        assert listed == Counter({kind: n[what] for kind, n in evidence["atoms"].items() if n[what]})


def test_the_tokens_of_the_report_are_those_that_were_compacted(evidence, session, tiny):
    engine = tiny("llama").engine
    cut = cut_of(session, engine)
    compacted = {i for part in cut if part.compact for b in part.blocks for i in range(*b.origin.tokens)}
    assert evidence["tokens"] == len(compacted)
    lost = [i for a, b in evidence["spans_lost"] for i in range(a, b)]
    assert evidence["tokens_lost"] == len(lost) == len(set(lost)) > 0
    assert set(lost) <= compacted
    fell = dict(map(tuple, evidence["falls"]))
    assert all(nats >= NOTABLE_FALL for nats in fell.values())
    assert {i for i, nats in fell.items() if nats > evidence["threshold"] + 0.01} <= set(lost) <= set(fell)
    repaired = {i for a, b in evidence["spans_repaired"] for i in range(a, b)}
    assert not repaired & set(lost)
    small = NOTABLE_FALL * (len(compacted) - len(fell))
    assert sum(fell.values()) - 1 <= evidence["nats_lost"] <= sum(fell.values()) + small
    assert evidence["nats_lost_first"] > 0
    found = locate_facts([b for part in cut if part.compact for b in part.blocks], engine.model.tokenizer)
    assert sum(counts["found"] for counts in evidence["atoms"].values()) == len(found)


def test_a_report_counts_over_spans():
    def atom(first, last):
        return FactTokens(TextFact(FactKind.PATH, "a.py", (0, 4)), 2, (first, last))

    report, index = LatentReport(1.0), torch.arange(10, 14)
    before = Survival(torch.tensor([3.0, 3.0, 0.0, -1.0]), index, 1.0)
    after = Survival(torch.tensor([0.0, 2.0, 0.0, 0.2]), index, 1.0)
    for _ in range(2):
        report.add(before, after, [atom(10, 11), atom(11, 12), atom(12, 13)])
    assert report.facts == {"path": Counter(found=6, kept=2, repaired=2, lost=2)}
    assert report.spans_lost == [(11, 12)] * 2
    assert report.spans_repaired == [(10, 11)] * 2
    assert [at for at, _ in report.falls] == [11, 13] * 2
    assert (report.tokens, report.nats_lost_first) == (8, 12.0)
    assert report.nats_lost == pytest.approx(4.4)
    assert (report.lost[0]["nats"], report.repaired[0]["nats"]) == (2.0, 3.0)
    assert json.loads(json.dumps(report.as_evidence())) == report.as_evidence()


@pytest.mark.parametrize("latent", WITHOUT_SCORES)
def test_a_method_without_scores_is_measured_and_left_alone(two, latent):
    plain = work_of(two.engine, latent, 3)
    made = plain.method.compress(plain.study, plain.budget)
    got, report = gated(Gate(allow_over=1), plain)
    assert same(CompactContext(got, 1000), CompactContext(made, 1000))
    assert (report.repaired, report.slots_over) == ([], 0)
    assert report.nats_lost == report.nats_lost_first > 0
    assert report.tokens == len(plain.span)
    assert report.skills["full"] < 0


def test_a_gate_that_only_measures_changes_nothing(two, session):
    plain = compact(session, two.engine, Plan("kvzip", 4))
    measured = compact(session, two.engine, Plan("kvzip", 4, gate=Gate(repair=False)))
    assert same(plain, measured)
    assert "gate" not in plain.evidence
    assert measured.evidence["gate"]["repaired"] == []


def test_strict_refuses_with_everything_that_is_lost(two, session):
    plan = Plan("kvzip", 8, gate=Gate())
    told = compact(session, two.engine, plan).evidence["gate"]
    with pytest.raises(Lost, match=f"^{len(told['lost'])} facts would be lost: ") as refused:
        compact(session, two.engine, replace(plan, gate=Gate(strict=True)))
    assert refused.value.losses == told["lost"]
    assert refused.value.exit_code == 3
    assert compact(session, two.engine, replace(plan, gate=Gate(threshold=1e6, strict=True))).evidence["gate"]["tokens"]


def test_strict_changes_neither_a_past_nor_a_shared_study(two, session):
    shared, cut = SharedStudy(), cut_of(session, two.engine)
    want, _ = compact_in_memory(cut, two.engine, Plan("informed", 8, gate=Gate()))
    with pytest.raises(Lost):
        compact_in_memory(cut, two.engine, Plan("informed", 8, gate=Gate(strict=True)), shared=shared)
    again, _ = compact_in_memory(cut, two.engine, Plan("informed", 8, gate=Gate()), shared=shared)
    assert same(again, want)


def test_ratios_that_share_a_study_give_what_each_gives_alone(two, session):
    shared, cut = SharedStudy(), cut_of(session, two.engine, Policy(keep_recent=0, pin=()))
    for ratio, gate in ((4, Gate(allow_over=0.5)), (8, None), (8, Gate())):
        plan = Plan("informed", ratio, by_turn=False, gate=gate)
        together, live = compact_in_memory(cut, two.engine, plan, shared=shared)
        alone, _ = compact_in_memory(cut, two.engine, plan)
        assert same(together, alone)
        assert live.nbytes == two.engine.open(together).nbytes


def test_evidence_survives_a_file(two, session, tmp_path):
    context = compact(session, two.engine, Plan("kvzip", 6, gate=Gate(allow_over=0.1)))
    loaded = holdfast_file.load(holdfast_file.save(context, tmp_path / "a.holdfast", two.model), two.model)
    assert loaded.evidence["gate"] == context.evidence["gate"]
    assert loaded.recipe["gate"] == {**asdict(Gate()), "allow_over": 0.1}


def test_equal_calls_give_equal_bytes_and_evidence(two, session):
    one, other = (compact(session, two.engine, Plan("informed", 6, gate=Gate())) for _ in range(2))
    assert same(one, other)
    timed = [{**x.evidence["gate"], "seconds": 0} for x in (one, other)]
    assert timed[0] == timed[1]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"threshold": 0}, "threshold"),
        ({"threshold": -1.0}, "threshold"),
        ({"threshold": float("nan")}, "threshold"),
        ({"threshold": float("inf")}, "threshold"),
        ({"allow_over": -0.1}, "allow_over"),
        ({"allow_over": 1.1}, "allow_over"),
        ({"allow_over": float("nan")}, "allow_over"),
    ],
)
def test_a_senseless_gate_is_refused(options, says):
    with pytest.raises(BadOption, match=says):
        Gate(**options)


def test_a_gate_is_written_behind_its_method():
    assert split_gate_spec("kvzip") == ("kvzip", None)
    assert split_gate_spec("kvzip:chunk=9+gate") == ("kvzip:chunk=9", Gate())
    assert split_gate_spec("informed:queries=own+random+gate:repair=false,allow_over=0.1") == (
        "informed:queries=own+random",
        Gate(repair=False, allow_over=0.1),
    )
    for spec in ("kvzip+gate:depth=1", "kvzip+gate:threshold=x", "kvzip+gate:repair", "kvzip+gate:threshold=nan"):
        with pytest.raises(BadOption):
            split_gate_spec(spec)
    for spec in ("kvzip+gates", "kvzip+gate+gate", "kvzip+gate.5"):
        with pytest.raises(BadOption):
            build(split_gate_spec(spec)[0])


@dataclass(frozen=True)
class Broken:
    """Leaves slots that are no numbers."""

    name: ClassVar[str] = "broken"
    by_turn: ClassVar[bool] = False

    def study(self, span, past, engine, progress=None):
        return engine.capture(past, span.ids, span.positions)[1]

    def compress(self, study, budget, progress=None):
        whole = keep_pairs(study, [None] * len(study.keys))
        return (replace(whole, layers=tuple(replace(s, values=s.values * torch.nan) for s in whole.layers)),)


def test_a_memory_of_nonsense_is_lost_altogether(two):
    work = work_of(two.engine, "kvzip", 4)
    states = Broken().study(work.span, work.past, two.engine)
    made, report = gated(Gate(ask="repeat"), replace(work, method=Broken(), study=states))
    assert torch.isnan(two.engine.next_logits(work.build_memory(made), PROBE)).all()
    assert sum(b - a for a, b in report.spans_lost) == len(work.span)
    assert all(n["lost"] == n["found"] for n in report.facts.values())
    with pytest.raises(Lost):
        report.refuse()


class Stopping:
    """A progress that raises at its call number `at`; 0 never does."""

    def __init__(self, error):
        self.at, self.error, self.calls = 0, error, []

    def __call__(self, what, done, total, note=""):
        self.calls.append(what)
        if len(self.calls) == self.at:
            raise self.error


@pytest.mark.parametrize("ask", ["cue", "repeat"])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError(), NO_MEMORY], ids=["interrupt", "memory", "torch"])
def test_whatever_stops_the_gate_leaves_past_and_study_as_they_were(two, error, ask):
    gate = Gate(ask=ask)
    work, progress = work_of(two.engine, "kvzip", 4), Stopping(error)
    work = replace(work, study=work.method.study(work.span, work.past, two.engine, progress), progress=progress)
    progress.calls.clear()
    want, wanted = gated(gate, work)
    steps = len(progress.calls)
    assert {"check", "repair"} | ({"repeat"} if ask == "repeat" else set()) <= set(progress.calls)
    before, scores = snapshot(work.past), {layer: s.clone() for layer, s in work.study.scores.items()}
    for at in range(1, steps + 1):
        progress.at = 0
        study = work.method.study(work.span, work.past, two.engine, progress)
        progress.at, report = at, LatentReport(1.0)
        progress.calls.clear()
        with pytest.raises(type(error)):
            compress_through_gate(gate, replace(work, study=study), report)
        assert unchanged(work.past, before)
        assert all(torch.equal(study.scores[layer], s) for layer, s in scores.items())
        assert report.as_evidence() == LatentReport(1.0).as_evidence()
    again, reported = gated(gate, replace(work, study=study))
    assert same(CompactContext(again, 1000), CompactContext(want, 1000))
    assert reported.lost == wanted.lost


@dataclass
class Failing(LocalEngine):
    """Runs out of memory in its call number `at` of `capture` or `score`."""

    def __init__(self, model, at, error):
        super().__init__(model)
        self.at, self.error = at, error

    def _count(self):
        self.at -= 1
        if self.at == 0:
            raise self.error

    def capture(self, *args, **kwargs):
        self._count()
        return super().capture(*args, **kwargs)

    def score(self, *args, **kwargs):
        self._count()
        return super().score(*args, **kwargs)


@pytest.mark.parametrize(("latent", "error"), [("informed", NO_MEMORY), ("pool", MemoryError())])
def test_an_engine_that_fails_in_the_middle_costs_nothing_but_time(tiny, session, latent, error):
    two = tiny("gemma3_text")
    cut = cut_of(session, two.engine)[:3]
    plan = Plan(latent, 6, gate=Gate())
    want, _ = compact_in_memory(cut, two.engine, plan)
    shared, at = SharedStudy(), 1
    while True:
        engine = Failing(two.model, at, error)
        try:
            got, _ = compact_in_memory(cut, engine, plan, shared=shared)
        except type(error):
            at += 1
            continue
        break
    assert at > 2  # at least the reading and the control failed once each
    assert same(got, want)


@dataclass(frozen=True)
class Spy:
    """Notes the spans that it is given."""

    name: ClassVar[str] = "spy"
    by_turn: ClassVar[bool] = False
    seen: ClassVar[list] = []

    def study(self, span, past, engine, progress=None):
        self.seen.append(span)
        return span

    def compress(self, study, budget, progress=None):
        return (TokenSegment(study.ids[: budget.slots], study.positions[: budget.slots], study.origins),)


@pytest.mark.parametrize("by_turn", [False, True])
def test_a_span_knows_what_followed_it_and_which_tokens_are_facts(tiny, session, monkeypatch, by_turn):
    monkeypatch.setitem(LATENT, "spy", Entry("test_gate:Spy", "for this test"))
    engine = tiny("llama").engine
    ids = render(session, engine.model.tokenizer).ids
    Spy.seen.clear()
    compact(session, engine, Plan("spy", 4, by_turn=by_turn))
    assert len(Spy.seen) > (4 if by_turn else 1)
    for span in Spy.seen:
        end = span.start + len(span)
        assert span.later.tolist() == list(ids[end : end + 1024])
        assert span.facts.tolist() == build_fact_mask(span.blocks, engine.model.tokenizer).tolist()
        assert len(span.facts) == len(span)
    assert any(span.facts.any() for span in Spy.seen)


def test_what_is_over_the_budget_is_held_and_said(tiny):
    engine = tiny("llama").engine
    work = work_of(engine, "random", 6)
    made, report = gated(Gate(allow_over=0.5), work)
    heads = len(engine.model.family.full) * engine.model.family.kv_heads
    assert pairs_in(made, engine.model.family) == (work.budget.slots + report.slots_over) * heads
    assert report.slots_over in (0, int(work.budget.slots * 0.5))


def test_the_gate_reads_a_span_that_its_method_did_not(two):
    past = past_of(two.engine)
    before = snapshot(past)
    span = span_of(two.engine, past.next_position, TEXT)
    work = replace(work_of(two.engine, "truncate", 3), past=past, span=span)
    read = work.prefill()
    assert unchanged(past, before)
    want = two.engine.capture(past, span.ids, span.positions)[0]
    got = [two.engine.next_logits(memory, PROBE) for memory in (read.after, want)]
    assert torch.equal(*got)


def test_an_empty_memory_may_be_gated(two):
    live = KVContext(two.model)
    work = replace(work_of(two.engine, "kvzip", 3, head=""), past=live)
    made, report = gated(Gate(), work)
    assert (live.next_position, live.nbytes) == (0, 0)
    assert torch.isfinite(two.engine.next_logits(work.build_memory(made), PROBE)).all()
    assert report.tokens == len(work.span)
