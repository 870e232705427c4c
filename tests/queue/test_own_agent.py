"""Holdfast's own agent does a queue's tasks, and goes on where a killed attempt was."""

import json
import os
import signal

from queues import run, statuses, task, write

from holdfast.agent import AgentOptions, Hooks, ScriptedModel, run_agent
from holdfast.queue import lease
from holdfast.queue.own_agent import open_inbox
from holdfast.queue.plan_file import PlanFile
from holdfast.queue.run import Runner
from holdfast.transcript.turn import Role, ToolCall, Turn
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


def test_a_resumed_attempt_has_each_message_once_whichever_attempt_was_told(tmp_path):
    listed = "the port is 4702\n- and no other"
    first, second = tmp_path / "1", tmp_path / "2"
    for folder, texts in ((first, ["asked first"]), (second, ["asked first", listed, "waited"])):
        folder.mkdir()
        (folder / lease.GIVEN).write_text(json.dumps({"texts": texts}))
    (first / "messages.md").write_text("- the port is 4702\n  - and no other\n")
    inbox = open_inbox(first, first)
    assert inbox.read() == [listed]
    assert inbox.read() == []

    def start(model, inbox):
        folder = first / "agent"
        return run_agent("t", tmp_path, model, "none", AgentOptions(sandbox="none"), Hooks(inbox=inbox), folder)

    call = ToolCall("c", "bash", json.dumps({"command": "echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT"}))
    start(ScriptedModel([]), open_inbox(first, first).read)  # it is told, and gets no answer
    (second / "messages.md").write_text("- late\n- waited\n")
    done = start(ScriptedModel([Turn(Role.ASSISTANT, "", calls=(call,))]), open_inbox(second, first).read)
    said = [turn.text for turn in done.turns if turn.role is Role.USER][1:]
    assert said == [listed, "waited", "late", "waited"]
