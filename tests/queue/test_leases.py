"""Attempts under kills, limits and floods; the order of many tasks."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from queues import LEDGER, run, statuses, task, write

from holdfast.queue import lease, schedule
from holdfast.queue.decide import decide, send
from holdfast.queue.events import Log, State, apply
from holdfast.queue.plan_file import PlanFile
from holdfast.queue.run import Runner
from holdfast.queue.tasks import Dependency, Task
from waiting import until

KILLS = Path(__file__).parents[2] / "benchmarks" / "queue_kills.py"


@pytest.fixture
def start():
    """Starts what is ready, as a runner does in its first step; the supervisors have ended when the test has."""
    children = []

    def call(log):
        runner = Runner(log)
        runner.file = PlanFile(log)
        runner._step()
        children.extend(runner._children)
        return runner

    yield call
    for child in children:
        child.wait()


def test_kills_of_runners_and_supervisors_lose_nothing_and_use_no_retry(tmp_path):
    line = [sys.executable, KILLS, "--kills", "10", "--supervisors", "1", "--pause", "0.3", "--folder", tmp_path]
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    table = json.loads(subprocess.run(line, check=True, capture_output=True, env=variables).stdout)
    assert (table["kills"], table["supervisors"]) == (10, 1)
    assert table["tasks"] >= 8
    counts = ("lost", "done_twice", "ended_twice", "retries_used")
    assert {name: table[name] for name in counts} == dict.fromkeys(counts, 0)


def test_a_claim_whose_holder_was_killed_is_queued_again_without_a_retry(tmp_path):
    log = write(tmp_path, task("a", LEDGER.format(task="a"), on_failure="retry_once"))
    PlanFile(log).sync()
    taken = lease.claim(log, lambda state: "a")
    assert statuses(log) == {"a": "running"}
    assert lease.claim(Log(tmp_path), lambda state: "a" if state.records["a"].status == "queued" else None) is None
    assert lease.is_alive(taken.folder, "", 0.0)
    taken.lock.close()  # as the system does for a process that is killed
    run(log)
    assert (tmp_path / "ledger").read_text() == "a\n"
    record = log.state.records["a"]
    assert (record.status, record.attempt, record.crashes, record.failures) == ("completed", 2, 1, 0)


def test_a_program_that_outlives_its_supervisor_is_not_started_beside_itself(tmp_path, start):
    log = write(tmp_path, task("a", "cat >/dev/null; echo x >> begun; until test -e go; do sleep 0.02; done"))
    start(log)
    folder = lease.attempt_folder(log, "a", 1)
    until(lambda: (tmp_path / "begun").exists() and lease.read_json(folder / "beat.json"))
    os.kill(lease.read_json(folder / "beat.json")["pid"], signal.SIGKILL)
    other = start(Log(tmp_path))
    assert other._step()
    assert (tmp_path / "begun").read_text() == "x\n"
    (tmp_path / "go").touch()
    run(Log(tmp_path))
    assert statuses(log) == {"a": "completed"}


@pytest.mark.parametrize(
    ("script", "config", "why"),
    [
        ("cat > /dev/null; exec sleep 100", {"stall_seconds": 0.2}, "printed nothing for 0.2 s"),
        ("while :; do echo still here; sleep 0.02; done", {"max_seconds": 0.4}, "longer than 0.4 s"),
    ],
)
def test_an_agent_that_answers_nothing_or_for_ever_is_stopped_with_the_limit(tmp_path, script, config, why):
    log = write(tmp_path, task("a", script, config=config))
    run(log)
    assert statuses(log) == {"a": "failed"}
    assert why in log.state.records["a"].result["error"]


def test_an_agent_that_uses_more_tokens_than_allowed_is_stopped(tmp_path):
    line = {"type": "assistant", "message": {"id": "m1", "usage": {"input_tokens": 600, "output_tokens": 1}}}
    fake = tmp_path / "bin" / "claude"
    fake.parent.mkdir()
    fake.write_text(f"#!/bin/sh\necho '{json.dumps(line)}'\nexec sleep 100\n")
    fake.chmod(0o755)
    with pytest.MonkeyPatch.context() as path:
        path.setenv("PATH", f"{fake.parent}{os.pathsep}{os.environ['PATH']}")
        log = write(tmp_path, {**task("a"), "config": {"cli": "claude", "max_tokens": 500}})
        run(log)
    assert "more than 500 tokens" in log.state.records["a"].result["error"]


def test_a_flood_of_output_is_cut_in_its_middle_and_its_end_is_the_result(tmp_path):
    log = write(tmp_path, task("a", "cat > /dev/null; head -c 12000000 /dev/zero | tr '\\0' x; echo; echo the end"))
    run(log)
    out = lease.attempt_folder(log, "a", 1) / "out"
    assert out.stat().st_size < 10_000_000
    assert b"bytes left out" in out.read_bytes()
    assert log.state.records["a"].result["summary"].endswith("the end")


def test_a_running_task_is_told_something_and_a_skip_ends_it(tmp_path, start):
    log = write(
        tmp_path,
        task(
            "a",
            'touch begun; m="$HOLDFAST_QUEUE_MESSAGES"; until test -s "$m"; do sleep 0.02; done; cat "$m"',
        ),
    )
    start(log)
    until((tmp_path / "begun").exists)
    assert "messages.md" in send(log, "a", "use port 4701")
    run(log)
    assert "use port 4701" in log.state.records["a"].result["summary"]
    edited = write(tmp_path, task("a"), task("b", "cat > /dev/null; touch busy; exec sleep 100"))
    start(edited)
    until((tmp_path / "busy").exists)
    assert decide(edited, "skip", "b") == "running"
    run(edited)
    assert statuses(edited) == {"a": "completed", "b": "skipped"}


def test_messages_to_a_task_that_waits_stand_in_its_prompt(tmp_path):
    log = write(tmp_path, task("a", "cat"))
    PlanFile(log).sync()
    send(log, "a", "mind the gap")
    run(log)
    assert "mind the gap" in log.state.records["a"].result["summary"]


def test_a_holder_whose_lock_was_deleted_counts_as_dead_after_a_long_silence(tmp_path):
    log = write(tmp_path, task("a"))
    PlanFile(log).sync()
    taken = lease.claim(log, lambda state: "a")
    taken.lock.close()
    (taken.folder / "lock").unlink()
    assert lease.is_alive(taken.folder, "", 0.0) is False


class Counting(dict):
    """Records that count how often they are looked up."""

    looks = 0

    def __getitem__(self, key):
        self.looks += 1
        return super().__getitem__(key)


def many(number):
    """A state of a wide and deep plan: every task needs up to three."""
    needs = {at: {at // 2, at // 3, max(at - 7, 0)} - {at} for at in range(number)}
    tasks = [
        Task(id=str(at), name="", prompt="", depends_on=[Dependency(id=str(one)) for one in needs[at]]) for at in needs
    ]
    state = State()
    apply(state, {"kind": "plan", "id": "x", "queue": {"project": "p"}, "tasks": [one.raw() for one in tasks]})
    return state, sum(map(len, needs.values()))


@pytest.mark.parametrize("number", [100, 1000])
def test_the_next_task_is_found_with_one_look_at_every_dependency(number):
    state, edges = many(number)
    state.records = Counting(state.records)
    assert schedule.ready(state) == ["0"]
    assert state.records.looks <= 2 * number + edges


def test_the_longest_way_goes_first_and_the_critical_path_is_shown():
    state = State()
    tasks = [task("short"), task("a"), task("b", "true", "a"), task("c", "true", "b")]
    apply(state, {"kind": "plan", "id": "x", "queue": {"project": "p"}, "tasks": tasks})
    assert schedule.ready(state) == ["a", "short"]
    assert schedule.critical_path(state).tasks == ("a", "b", "c")


def test_a_plan_that_is_a_chain_without_reasons_is_warned_of():
    chain = {
        name: Task.model_validate(task(name, "true", *needs))
        for name, needs in {"x": [], "y": ["x"], "z": ["y"]}.items()
    }
    assert schedule.find_needless_waits(chain) == [("y", "x"), ("z", "y")]
    shared = {name: one.model_copy(update={"relevant_files": ("db.js",)}) for name, one in chain.items()}
    assert schedule.find_needless_waits(shared) == []


def test_what_waits_for_a_failure_is_named_and_after_waits_for_any_end(tmp_path):
    fail = task("a", "exit 3", on_failure="retry_once", retries=0)
    log = write(tmp_path, fail, task("b", "true", "a"), {**task("c"), "depends_on": [{"id": "a", "kind": "after"}]})
    run(log)
    assert statuses(log) == {"a": "failed", "b": "queued", "c": "completed"}
    assert schedule.find_blocked(log.state) == {"b": ["a"]}
    assert "b cannot start" in (tmp_path / "status.md").read_text()


def test_independent_tasks_run_side_by_side(tmp_path):
    meet = "cat >/dev/null; touch {0}; until test -e {1}; do sleep 0.02; done"
    log = write(tmp_path, task("a", meet.format("a.here", "b.here")), task("b", meet.format("b.here", "a.here")))
    run(log, jobs=2)
    assert statuses(log) == {"a": "completed", "b": "completed"}


def test_ctrl_c_ends_the_tasks_and_queues_them_again_without_a_retry(tmp_path):
    log = write(tmp_path, task("a", "cat >/dev/null; touch here; until test -e go; do sleep 0.02; done"))
    line = [sys.executable, "-m", "holdfast", "queue", "run", tmp_path]
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(line, env=variables, stderr=subprocess.PIPE) as runner:
        until((tmp_path / "here").exists)
        runner.send_signal(signal.SIGINT)
        told = runner.communicate()[1].decode()
    assert runner.returncode == 130, told
    record = log.refresh().records["a"]
    assert (record.status, record.crashes, record.failures) == ("queued", 0, 0)
    (tmp_path / "go").touch()
    run(log)
    assert statuses(log) == {"a": "completed"}
