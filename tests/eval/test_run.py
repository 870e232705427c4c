"""A run over a tiny model: rows are complete, baselines are always there, and an interrupted run goes on."""

import json
from dataclasses import replace

import pytest

from conftest import build_pair
from counted_crates import crates, long_session
from holdfast.compaction.plan import Plan, Policy
from holdfast.compaction.walk import SharedStudy, compact_in_memory
from holdfast.context.segments import CompactContext, token_segment
from holdfast.errors import BadInput, BadOption
from holdfast.eval.open_window import OpenWindow
from holdfast.eval.rows import read_rows
from holdfast.eval.run import Run, _jobs, measure, transcripts_in
from holdfast.eval.score import score
from holdfast.progress import quiet
from tolerance import PASS, close


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sessions")
    messages = [{"role": t.role.value, "content": t.text} for t in long_session().turns]
    (folder / "s.json").write_text(json.dumps(messages))
    (folder / "broken.json").write_text("{")
    return folder


@pytest.fixture(scope="module")
def engine():
    return build_pair("llama").engine


def job(folder, **changes):
    fields = {
        "transcripts": transcripts_in(folder),
        "probes": tuple(crates(n) for n in (3, 4, 20)),
        "latent": ("truncate", "kvzip"),
        "ratios": (2.0, 8.0),
        "window": 400,
        **{"answer_tokens": 6, "action_tokens": 6},  # a tiny model says nothing sooner
    }
    return Run(**(fields | changes))


def test_a_run_writes_baselines_and_every_method_at_every_ratio(folder, engine, tmp_path):
    out = tmp_path / "rows.jsonl"
    written = measure(job(folder), engine, out, note=lambda _: None)
    rows = read_rows(out)
    assert written == len(rows) == 3 * (2 + 2 * 2)
    plans = {(r.method, r.ratio) for r in rows}
    assert plans == {("full", 1.0), ("none", None)} | {(m, r) for m in ("truncate", "kvzip") for r in (2.0, 8.0)}
    for row in rows:
        assert row.bytes_span <= row.bytes_span_full
        if row.method == "kvzip":
            assert row.bytes_span <= row.bytes_span_full / row.ratio
    scores = {(s.method, s.ratio): s for s in score(rows)}
    assert scores["full", 1.0].retained == 1
    assert scores["full", 1.0].kl == 0
    assert scores["none", None].retained == 0


def test_running_again_measures_nothing_twice(folder, engine, tmp_path):
    out = tmp_path / "rows.jsonl"
    first = job(folder, latent=("truncate",), ratios=(2.0,))
    measure(first, engine, out, note=lambda _: None)
    assert measure(first, engine, out, note=lambda _: None) == 0
    assert measure(job(folder, latent=("truncate",)), engine, out, note=lambda _: None) == 3


def test_a_run_stopped_in_the_middle_keeps_its_rows_and_goes_on(folder, engine, tmp_path):
    out = tmp_path / "rows.jsonl"
    started = []

    def stop(what, done, total, note):
        started.append(what)
        if started.count("method") == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure(job(folder), engine, out, stop, note=lambda _: None)
    kept = len(read_rows(out))
    assert kept > 0
    assert kept + measure(job(folder), engine, out, note=lambda _: None) == 3 * 6


def test_the_same_run_gives_the_same_numbers(folder, engine, tmp_path):
    files = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    for out in files:
        measure(job(folder, latent=("kvzip",), ratios=(4.0,)), engine, out, note=lambda _: None)
    first, second = ([(r.probe, r.method, r.answer_logprob, r.kl) for r in read_rows(out)] for out in files)
    assert first == second


def test_a_sample_is_drawn_by_seed(folder, engine, tmp_path):
    def probes(seed):
        out = tmp_path / f"{seed}.jsonl"
        small = job(folder, latent=(), limit=2, seed=seed, probes=tuple(crates(n) for n in range(2, 26)))
        measure(small, engine, out, note=lambda _: None)
        return {r.probe for r in read_rows(out)}

    assert len(probes(1)) == 2
    assert probes(1) == probes(1) != probes(2)


def test_what_is_left_out_is_said(folder, engine, tmp_path):
    notes = []
    wrong = crates(5).model_copy(update={"evidence": "nowhere", "answer_literal": "nowhere"})
    elsewhere = crates(6).model_copy(update={"transcript": "other.json"})
    unreadable = crates(7).model_copy(update={"transcript": "broken.json"})
    run = job(folder, probes=(crates(3), wrong, elsewhere, unreadable), latent=("truncate",), ratios=(2.0,))
    measure(run, engine, tmp_path / "rows.jsonl", note=notes.append)
    assert any("p5" in n and "evidence" in n for n in notes)
    assert any("broken.json" in n for n in notes)


def test_a_method_that_cannot_serve_a_ratio_is_named_and_the_others_go_on(folder, engine, tmp_path):
    notes = []
    run = job(folder, latent=("virtual_tokens:verbatim=uniqueness,share=0.9,steps=1", "truncate"), ratios=(8.0,))
    measure(run, engine, tmp_path / "rows.jsonl", note=notes.append)
    assert any("too short for a hybrid" in n for n in notes)
    assert ("truncate", 8.0) in {(r.method, r.ratio) for r in read_rows(tmp_path / "rows.jsonl")}


@pytest.mark.parametrize("changes", [{"window": 500}, {"by_turn": True}])
def test_rows_measured_in_another_way_are_not_mixed_in(folder, engine, tmp_path, changes):
    out = tmp_path / "rows.jsonl"
    measure(job(folder, latent=("truncate",), ratios=(2.0,)), engine, out, note=lambda _: None)
    with pytest.raises(BadOption, match="another --out"):
        measure(job(folder, latent=("truncate",), ratios=(4.0,), **changes), engine, out, note=lambda _: None)


def test_rows_of_another_model_are_not_mixed_in(folder, engine, tmp_path):
    out = tmp_path / "rows.jsonl"
    measure(job(folder, latent=("truncate",), ratios=(2.0,)), engine, out, note=lambda _: None)
    with pytest.raises(BadOption, match="model"):
        measure(job(folder), build_pair("llama", 1).engine, out, note=lambda _: None)


def test_a_changed_probe_or_session_is_measured_again(folder, engine, tmp_path):
    out = tmp_path / "rows.jsonl"
    measure(job(folder, latent=("truncate",), ratios=(2.0,)), engine, out, note=lambda _: None)
    reworded = crates(3).model_copy(update={"question": "How many crates does hall three hold?"})
    again = job(folder, latent=("truncate",), ratios=(2.0,), probes=(reworded, crates(4), crates(20)))
    assert measure(again, engine, out, note=lambda _: None) == 3


def test_a_window_beyond_the_model_is_refused(folder, engine, tmp_path):
    with pytest.raises(BadOption, match="reads windows of up to"):
        measure(job(folder, window=8000), engine, tmp_path / "rows.jsonl", note=lambda _: None)


def test_nothing_to_measure_is_bad_input(folder, engine, tmp_path):
    lost = crates(3).model_copy(update={"transcript": "other.json"})
    with pytest.raises(BadInput, match="nothing to measure"):
        measure(job(folder, probes=(lost,)), engine, tmp_path / "rows.jsonl", note=lambda _: None)


def test_a_file_with_half_a_row_is_begun_again(folder, engine, tmp_path):
    out = tmp_path / "rows.jsonl"
    out.write_text('{"version": "0.1')
    assert measure(job(folder, latent=("truncate",), ratios=(2.0,)), engine, out, note=lambda _: None) == 9
    assert len(read_rows(out)) == 9


def test_windows_are_taken_from_the_sessions_in_turn_and_more_of_them_go_on(folder, engine, tmp_path):
    messages = json.loads((folder / "s.json").read_text())
    (tmp_path / "t.json").write_text(json.dumps(messages))
    probes = tuple(crates(n).model_copy(update={"transcript": name}) for name in ("s.json", "t.json") for n in (3, 20))
    files = transcripts_in(folder / "s.json", tmp_path)
    fields = {"transcripts": files, "probes": probes, "latent": ("truncate",), "ratios": (4.0,), "later": False}
    out = tmp_path / "rows.jsonl"
    measure(job(folder, **fields, windows=2), engine, out, note=lambda _: None)
    assert {r.transcript for r in read_rows(out)} == {"s.json", "t.json"}
    assert len(read_rows(out)) == 2 * 3
    assert measure(job(folder, **fields), engine, out, note=lambda _: None) == 2 * 3


def test_two_sessions_of_one_name_are_refused(folder, tmp_path):
    (tmp_path / "s.json").write_text("[]")
    with pytest.raises(BadInput, match="a name of its own"):
        transcripts_in(folder, tmp_path)


def test_a_probe_that_the_model_knows_is_noted_once_and_not_measured_again(folder, engine, tmp_path):
    run = job(folder, latent=("truncate",), ratios=(4.0,))
    blank = tmp_path / "blank.jsonl"
    measure(run, engine, blank, note=lambda _: None)
    said = next(r.text for r in read_rows(blank) if r.method == "none" and r.probe == "p3")
    known = crates(3).model_copy(update={"accept": [said.strip()[:8] or said[:8], crates(3).answer]})
    again, out, notes = replace(run, probes=(known, crates(4), crates(20))), tmp_path / "rows.jsonl", []
    measure(again, engine, out, note=notes.append)
    rows = read_rows(out)
    assert [(r.method, bool(r.left_out)) for r in rows if r.probe == "p3"] == [("none", True)]
    assert any("p3 is left out" in note for note in notes)
    assert {s.n for s in score(rows)} == {2}
    assert measure(again, engine, out, note=lambda _: None) == 0


def test_the_full_context_agrees_with_itself_and_a_lossless_one_with_it(folder, engine, tmp_path):
    out = tmp_path / "rows.jsonl"
    measure(job(folder, latent=("kvzip",), ratios=(1.0,)), engine, out, note=lambda _: None)
    for row in read_rows(out):
        if row.method != "none":
            assert (row.next_action_exact, row.next_action_f1) == (True, 1.0)
            assert (row.later_action_exact, row.later_action_f1) == (True, 1.0)
        assert row.next_action_tool is None  # this session only speaks
        assert row.bytes_base == "bfloat16"
        assert row.seconds_measure > 0


def test_what_the_window_reads_is_what_each_method_would_read_alone(folder, engine, tmp_path):
    window = next(iter(_jobs(job(folder), engine, print))).window
    opened = OpenWindow.read(window, engine)
    alone = engine.open(CompactContext((token_segment(window.ids(), 0),), window.tokens))
    asked = list(window.next_ids[:20])
    assert close(engine.next_logits(opened.full, asked), engine.next_logits(alone, asked), PASS)
    plan = Plan("informed", 4.0, None, Policy(pin=(), keep_recent=0))
    _, shared = opened.compact(plan, quiet, SharedStudy())
    _, own = compact_in_memory(list(window.parts), engine, plan)
    assert close(engine.next_logits(shared, asked), engine.next_logits(own, asked), PASS)
    assert shared.nbytes == own.nbytes
