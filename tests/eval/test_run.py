"""A run over a tiny model: rows are complete, baselines are always there, and an interrupted run goes on."""

import json

import pytest

from conftest import build_pair
from counted_crates import crates, long_session
from holdfast.errors import BadInput, BadOption
from holdfast.eval.rows import read_rows
from holdfast.eval.run import Run, measure, transcripts_in
from holdfast.eval.score import score


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
