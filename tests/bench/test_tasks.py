"""The eight tasks: their checks see every trap, a killed run goes on, and what a context loses is read again."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from holdfast.agent import ScriptedModel
from holdfast.agent.sandbox.none import NoSandbox
from holdfast.bench.tasks.catalog import NEEDS, missing_needs, read_tasks
from holdfast.bench.tasks.conditions import Retrieval, read_condition
from holdfast.bench.tasks.judge import agreement_with_checks, judge_task
from holdfast.bench.tasks.run import TaskRow, make_run, measure
from holdfast.bench.tasks.script import make_script
from holdfast.bench.tasks.table import task_table
from holdfast.bench.tasks.workspace import accept, count_checks, reset
from holdfast.errors import BadInput, BadOption
from holdfast.storage.json_lines import read_lines
from holdfast.transcript.cuts import check_legal
from holdfast.transcript.turn import Role, ToolCall, Turn
from stand_in_judge import StandInJudge

TASKS = {task.id: task for task in read_tasks()}
node = pytest.mark.skipif(not shutil.which("node"), reason="the programs are built with Node, which is not here")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("program") / "work"
    reset(folder)
    for task in TASKS.values():
        for path, text in task.solution.items():
            (folder / path).parent.mkdir(exist_ok=True)
            (folder / path).write_text(text)
    return folder


@node
@pytest.mark.parametrize("name", NEEDS)
def test_the_reference_solution_passes_all_checks(built, name):
    found = accept(TASKS[name], built, NoSandbox())
    assert found.complete, found.output
    assert found.total == count_checks(TASKS[name])


TRAPS = [
    ("1-database", "src/db.js", "require('sql.js')", "require('better-sqlite3')"),
    ("2-markdown", "src/markdown.js", "'use strict'", "const { marked } = require('marked')"),
    ("3-users", "src/auth.js", "'dev-secret'", "'secret'"),
    ("3-users", "src/auth.js", "status: 409", "status: 400"),
    ("4-tasks", "src/tasks.js", "status: 204", "status: 200"),
    ("6-validation", "src/validate.js", "'in_progress'", "'in-progress'"),
]


@node
@pytest.mark.parametrize(("name", "path", "right", "wrong"), TRAPS)
def test_the_checks_see_every_trap(built, tmp_path, name, path, right, wrong):
    shutil.copytree(built, tmp_path / "work")
    source = (tmp_path / "work" / path).read_text()
    assert right in source
    (tmp_path / "work" / path).write_text(source.replace(right, wrong))
    assert not accept(TASKS[name], tmp_path / "work", NoSandbox()).complete


@node
def test_an_empty_program_passes_nothing(tmp_path):
    reset(tmp_path / "work")
    found = accept(TASKS["4-tasks"], tmp_path / "work", NoSandbox())
    assert (found.passed, found.total) == (0, 4)


def test_a_task_alone_finds_what_it_builds_on(tmp_path):
    given = missing_needs(read_tasks(("5",)))
    assert [task.id for task in given] == ["1-database", "2-markdown"]
    reset(tmp_path / "work", given)
    assert sorted(path.name for path in (tmp_path / "work" / "src").iterdir()) == ["db.js", "markdown.js"]
    assert not missing_needs(read_tasks())


KILLER = """
import os, signal, sys
from pathlib import Path
from holdfast.agent import ScriptedModel
from holdfast.bench.tasks.catalog import read_tasks
from holdfast.bench.tasks.conditions import PRICES
from holdfast.bench.tasks.run import make_run, measure
from holdfast.bench.tasks.script import make_script

def die(turns):
    os.kill(os.getpid(), signal.SIGKILL)

script = list(make_script(read_tasks(("1", "2"))))
script[9] = die
run = make_run(("1", "2"), ("raw",), sessions=("one",), sandbox="none")
measure(run, Path(sys.argv[1]), lambda: ScriptedModel(script, prices=PRICES))
"""


@node
def test_a_killed_run_goes_on_and_ends_the_same(tmp_path):
    run = make_run(("1", "2"), ("raw",), sessions=("one",), sandbox="none")
    (whole,) = read_lines(measure(run, tmp_path / "whole"), TaskRow, print)
    dead = subprocess.run([sys.executable, "-c", KILLER, str(tmp_path / "cut")], env=os.environ, check=False)
    assert dead.returncode == -9
    assert not (tmp_path / "cut" / "rows.jsonl").exists()
    (resumed,) = read_lines(measure(run, tmp_path / "cut"), TaskRow, print)
    changing = {"created", "seconds"}
    assert resumed.model_dump(exclude=changing) == whole.model_dump(exclude=changing)
    assert (sum(whole.passed.values()), whole.statuses) == (9, ["submitted"])
    before = (tmp_path / "cut" / "rows.jsonl").read_bytes()
    measure(run, tmp_path / "cut")
    assert (tmp_path / "cut" / "rows.jsonl").read_bytes() == before


def call(at: int, path: str, result: str) -> list[Turn]:
    made = ToolCall(f"c{at}", "read_file", json.dumps({"path": path}))
    return [Turn(Role.ASSISTANT, "", calls=(made,)), Turn(Role.TOOL, result, call_id=made.id)]


def test_retrieval_keeps_the_task_the_newest_and_five_others():
    turns = [Turn(Role.SYSTEM, "s"), Turn(Role.USER, "t")]
    for at in range(12):
        turns += call(at, f"f{at}.js", "apples and pears" if at % 2 else "the query of tables")
    sent = Retrieval().prepare(turns).turns
    check_legal(sent)
    assert sent[:2] == tuple(turns[:2])
    assert sent[-2:] == tuple(turns[-2:])
    assert len(sent) == 2 + 2 * 6
    assert all("apples" in turn.text for turn in sent if turn.role is Role.TOOL)
    assert Retrieval().prepare(turns).compaction is None


@pytest.mark.parametrize("there", [True, False])
def test_the_scripted_agent_reads_a_file_again_only_if_it_left_its_context(there):
    step = next(step for step in make_script(read_tasks(("3",)))[3:])
    text = TASKS["1-database"].solution["src/db.js"]
    (made,) = step(call(1, "src/db.js", text if there else "(cleared)")).calls
    assert made.name == ("run_command" if there else "read_file")


def scores(*given):
    return json.dumps(dict(zip(("completeness", "correctness", "adherence"), given, strict=True)))


def test_a_judge_sees_whole_files_and_its_agreement_is_told():
    chat = StandInJudge(scores(5, 4, 5), f"I think {scores(5, 4, 5)}", "very good", scores(9, 4, 5), scores(3, 2, 3))
    task = TASKS["2-markdown"]
    found = judge_task(chat, task, {"src/markdown.js": "x" * 50_000}, samples=5)
    assert "x" * 50_000 in chat.prompts[0]
    assert len(found.samples) == 3
    assert found.scores["correctness"] == pytest.approx(10 / 3)
    assert found.agreement == pytest.approx(1 / 3)
    assert agreement_with_checks([found], {task.id: True}) == 0
    with pytest.raises(BadOption):
        judge_task(chat, task, {}, samples=0)


def test_unknown_names_are_refused_before_anything_is_built(tmp_path):
    with pytest.raises(BadInput, match="1-database"):
        make_run(("9",), ("raw",))
    with pytest.raises(BadOption, match="tiered"):
        read_condition("nothing@3").open(ScriptedModel([]))
    with pytest.raises(BadOption, match="one or fresh"):
        make_run((), ("raw",), sessions=("two",))
    assert not list(tmp_path.iterdir())


def test_the_table_names_its_baseline():
    row = {
        "version": "0", "created": "", "agent": "scripted", "context": "none", "trigger": 12000, "session": "one",
        "trial": 0, "passed": {"a": 2}, "checks": {"a": 3}, "statuses": ["submitted"], "steps": 4, "compactions": 0,
        "usage": {"input": 10, "cached": 90, "output": 5}, "compactor": {}, "seconds": 1, "peak": 50, "rereads": 0,
        "prompts": [10, 20],
    }  # fmt: skip
    rows = [TaskRow(**row, condition=name, money=money) for name, money in (("raw", 0.4), ("cache", 0.1))]
    table = task_table(rows, "raw")
    assert "raw" in str(table.caption)
    assert [list(column.cells)[1] for column in table.columns if column.header == "to baseline"] == ["-75 %"]
