"""The defects of Bearing's evaluation, one test each: the number is the row in which each was found."""

import json
from pathlib import Path

import pytest

from holdfast.bench.keep.item import make_item
from holdfast.bench.keep.rows import KeepRow
from holdfast.bench.keep.run import digest
from holdfast.bench.keep.score import score
from holdfast.bench.tasks.catalog import read_tasks
from holdfast.bench.tasks.judge import judge_task
from holdfast.bench.tasks.run import TaskRow, make_run, measure
from holdfast.bench.tasks.table import task_table
from holdfast.bench.tasks.workspace import reset
from holdfast.storage.json_lines import read_lines
from stand_in_judge import StandInJudge

ROOT = Path(__file__).parents[2]


def row(trial, passed):
    counts = {"input": 10, "cached": 0, "output": 5}
    return TaskRow(
        version="0", created="", agent="scripted", condition="raw", context="none", trigger=12000, session="one",
        trial=trial, passed=passed, checks={"a": 2, "b": 2}, statuses=["submitted"], steps=4, compactions=0,
        usage=counts, compactor={}, seconds=1, peak=50, rereads=0, prompts=[10], money=0.1,
    )  # fmt: skip


def test_row_100_a_failed_task_counts_in_every_mean_and_trials_are_many():
    table = task_table([row(0, {"a": 2, "b": 2}), row(1, {"a": 0, "b": 2})], "raw")
    cells = {str(column.header): next(iter(column.cells)) for column in table.columns}
    assert (cells["n"], cells["tasks"], cells["checks"]) == ("2", "1.5/2", "3/4")
    assert make_run((), ("raw",), trials=3).trials == 3


def test_row_100_the_judge_sees_whole_files_several_times_and_what_it_cannot_read_is_no_zero():
    good = json.dumps({"completeness": 4, "correctness": 4, "adherence": 4})
    chat = StandInJudge(good, "no idea", good)
    found = judge_task(chat, read_tasks(("2",))[0], {"src/markdown.js": "x" * 60_000 + "END"})
    assert all("END" in prompt for prompt in chat.prompts)
    assert (found.asked, len(found.samples), set(found.scores.values())) == (3, 2, {4})


def test_row_101_nothing_of_an_earlier_run_is_left_ignored_or_not(tmp_path):
    work = tmp_path / "work"
    reset(work)
    fresh = {path: path.read_bytes() for path in work.rglob("*") if path.is_file()}
    (work / ".gitignore").write_text("node_modules\n*.db\n")
    (work / "node_modules" / "extra").mkdir()
    (work / "node_modules" / "extra" / "index.js").write_text("leak")
    (work / "data.db").write_text("leak")
    (work / "package.json").write_text("{}")
    reset(work)
    assert {path: path.read_bytes() for path in work.rglob("*") if path.is_file()} == fresh


def test_row_101_compactions_are_counted_where_they_happen(tmp_path):
    run = make_run(("2",), ("tiered@4",), sessions=("one",), sandbox="none", trigger=1200)
    out = measure(run, tmp_path)
    (found,) = read_lines(out, TaskRow, print)
    (log,) = tmp_path.rglob("run.jsonl")
    kinds = [json.loads(line)["kind"] for line in log.read_text().splitlines()]
    assert found.compactions == kinds.count("compaction") > 0
    assert found.peak == max(found.prompts)


def test_row_104_there_are_checks_for_every_change_seeds_and_intervals(keep_rows):
    script = (ROOT / ".ci" / "run").read_text()
    assert "make test" in script
    assert digest(make_item(7, 2048)) == digest(make_item(7, 2048)) != digest(make_item(8, 2048))
    scores = {one.condition: one for one in score(keep_rows)}
    low, high = scores["half"].passed.ci
    assert low is not None
    assert 0 <= low < scores["half"].passed.value < high <= 1
    assert scores["half"].passed_against.value == pytest.approx(-0.5)


STRINGS = (
    *("model", "model_digest", "tokenizer_digest", "version", "created"),
    *("item_digest", "family", "place", "text"),
)


@pytest.fixture
def keep_rows():
    same = {
        **dict.fromkeys(STRINGS, "x"),
        "config": {}, "size": 4096, "depth": 0.1, "kind": "latent", "ratio": 2.0, "tokens_full": 4000, "tokens": 2000,
        "bytes_full": 10, "bytes": 5, "seconds_prefill": 1.0, "seconds_context": 1.0, "seconds_answer": 1.0,
    }  # fmt: skip
    return [
        KeepRow(**same, item=str(seed), seed=seed, condition=name, facts={"a": kept}, passed=kept)
        for seed in range(12)
        for name, kept in (("full", True), ("half", seed % 2 == 0))
    ]
