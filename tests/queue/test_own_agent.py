"""Holdfast's own agent does a queue's tasks, and goes on where a killed attempt was."""

import json
import os
import signal

from queues import run, statuses, task, write

from holdfast.queue import lease
from holdfast.queue.plan_file import PlanFile
from holdfast.queue.run import Runner
from waiting import until


def bash(command):
    return {"text": "", "calls": [{"name": "bash", "arguments": {"command": command}}]}


def own(folder, *answers, **config):
    """A task of our own agent with a scripted model."""
    script = folder / "script.json"
    script.write_text(json.dumps(list(answers)))
    settings = {"cli": "holdfast", "model": f"scripted:{script}", "permission_mode": "dangerously_skip", **config}
    return {**task("a"), "config": settings}


def test_a_task_is_done_and_its_steps_are_counted(tmp_path):
    done = bash("echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT; echo the port is 4701")
    log = write(tmp_path, own(tmp_path, bash("echo 4701 > port.txt"), done))
    run(log)
    result = log.state.records["a"].result
    assert statuses(log) == {"a": "completed"}, result
    assert "the port is 4701" in result["summary"]
    assert result["turns_used"] == 2
    assert (tmp_path / "port.txt").read_text() == "4701\n"


def test_a_killed_attempt_is_resumed_and_its_first_step_is_not_done_again(tmp_path):
    wait = "touch here; until test -e go; do sleep 0.02; done"
    done = bash("echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT; echo done")
    log = write(tmp_path, own(tmp_path, bash("echo once >> steps"), bash(wait), done))
    runner = Runner(log)
    runner.file = PlanFile(log)
    runner._step()
    until((tmp_path / "here").exists)
    beat = lease.read_json(lease.attempt_folder(log, "a", 1) / "beat.json")
    os.kill(beat["pid"], signal.SIGKILL)
    os.killpg(beat["group"], signal.SIGKILL)
    runner._children[0].wait()
    (tmp_path / "go").touch()
    run(log)
    record = log.state.records["a"]
    assert (record.status, record.attempt, record.crashes, record.failures) == ("completed", 2, 1, 0), record.result
    assert (tmp_path / "steps").read_text() == "once\n"
