"""A queue of real tasks by our own agent: everything is killed in the middle, and the program is built all the same."""

import json
import shutil
from importlib import import_module
from pathlib import Path

import pytest
from queues import run

from holdfast.bench.tasks.catalog import read_tasks
from waiting import until

with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    recipe = import_module("queue_tasks")


@pytest.mark.skipif(not shutil.which("node"), reason="the programs are built with Node, which is not here")
def test_a_queue_killed_in_the_middle_builds_the_same_program(tmp_path):
    tasks = read_tasks(("2", "5"))  # the second is built on the first
    log = recipe.write_queue(tmp_path / "cut", tasks)
    script = tmp_path / "cut" / "5-report.json"
    answers = json.loads(script.read_text())
    wait = {"command": "touch ../here; until test -e ../go; do sleep 0.02; done"}
    answers.insert(2, {"text": "", "calls": [{"name": "bash", "arguments": wait}]})
    script.write_text(json.dumps(answers))
    runner = recipe.launch(log)
    until((tmp_path / "cut" / "here").exists)
    recipe.kill_all(log, runner)
    (tmp_path / "cut" / "go").touch()
    run(log)
    recipe.reset(tmp_path / "whole", [*recipe.missing_needs(tasks), *tasks])
    found = recipe.judge(log, tasks, tmp_path / "whole", recipe.Result(2))
    assert (found.completed, found.crashes, found.retries_used, found.steps_twice) == (2, 1, 0, 0)
    assert found.same_program
    assert found.checks_passed == found.checks > 0
