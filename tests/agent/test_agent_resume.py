"""A killed run goes on without a lost or doubled action; what cannot be written stops it."""

import json
import resource
import signal
import subprocess
import sys

import pytest

from holdfast.agent import AgentOptions, Hooks, ScriptedModel, run_agent
from holdfast.agent.loop import INTERRUPTED
from holdfast.agent.replay import replay_page
from holdfast.agent.trajectory import LOG, Trajectory, read_rows, replay
from holdfast.errors import BadInput, Failed
from holdfast.transcript.turn import Role, ToolCall, Turn
from waiting import until

SUBMIT = "echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT"


def bash(command, call="a"):
    return Turn(Role.ASSISTANT, "Next.", calls=(ToolCall(call, "bash", json.dumps({"command": command})),))


SCRIPT = ["echo 1 >> log", "echo 2 >> log; sleep 4", "echo 3 >> log", SUBMIT]


def start(tmp_path, script, context="none", **hooks):
    (tmp_path / "w").mkdir(exist_ok=True)
    model = ScriptedModel([bash(command, f"c{at}") for at, command in enumerate(script)])
    options = AgentOptions(sandbox="none", trigger=3000)
    return run_agent("Count", tmp_path / "w", model, context, options, Hooks(**hooks), tmp_path / "run")


def test_a_run_killed_in_a_command_does_not_run_it_again(tmp_path):
    code = f"import sys; sys.path[:0] = {sys.path!r}\nimport test_agent_resume as t, pathlib\n"
    code += f"t.start(pathlib.Path({str(tmp_path)!r}), t.SCRIPT)"
    process = subprocess.Popen([sys.executable, "-c", code])
    log = tmp_path / "w" / "log"
    until(lambda: log.exists() and log.read_text() == "1\n2\n")
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = start(tmp_path, SCRIPT)
    assert (done.status, done.steps) == ("submitted", 4)
    assert log.read_text() == "1\n2\n3\n"
    assert [turn.text for turn in done.turns if turn.call_id == "c1"] == [INTERRUPTED]


COMPACTED = ["echo 1 >> log", "seq 1 2000", "seq 1 2000", SUBMIT, SUBMIT]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run with a compaction: its folder, the lines of its log, and how it ended."""
    root = tmp_path_factory.mktemp("whole")
    done = start(root, COMPACTED, "tiered")
    return root, (root / "run" / LOG).read_bytes().splitlines(keepends=True), done


@pytest.mark.parametrize("kept", [1, 2, 3, 4, 5, 8, 9, 10, 11, 12, 14, 15, 16])
def test_a_run_goes_on_from_every_event(whole, kept):
    root, lines, ended = whole
    (root / "run" / LOG).write_bytes(b"".join(lines[:kept]) + lines[kept][:20])  # the next one was being written
    done = start(root, COMPACTED, "tiered")
    interrupted = json.loads(lines[kept - 1])["kind"] == "intent"
    assert sum(turn.text == INTERRUPTED for turn in done.turns) == interrupted
    assert done.status == "submitted"
    assert [turn.role for turn in done.turns][: len(ended.turns)] == [turn.role for turn in ended.turns]
    assert len(done.turns) - len(ended.turns) == (2 if kept == 15 else 0)  # the hand-in itself was interrupted


def test_a_compacted_run_is_replayed_as_it_was_sent(tmp_path):
    done = start(tmp_path, ["seq 1 900"] * 5 + [SUBMIT], "tiered")
    rows = read_rows(tmp_path / "run")
    assert replay(rows).compactions == done.compactions > 0
    page = replay_page(rows)
    assert page.count("compacted by") >= 1
    assert page.count("Step 6") == 1


def test_nothing_in_a_session_closes_the_script_of_its_page(tmp_path):
    start(tmp_path, ["echo '</script><script>alert(1)</script>'", SUBMIT])
    assert replay_page(read_rows(tmp_path / "run")).count("</script>") == 2


def test_two_runs_do_not_write_one_log(tmp_path):
    with Trajectory(tmp_path / "run"), pytest.raises(Failed, match="another holdfast is writing"):
        start(tmp_path, [SUBMIT])


def test_a_log_that_is_none_is_refused(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / LOG).write_text('{"kind": "turns"}\n{}\n')
    with pytest.raises(BadInput, match=r"run.jsonl:1"):
        start(tmp_path, [SUBMIT])


def test_a_full_disk_stops_before_the_action_and_the_run_goes_on(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def full(call):
        resource.setrlimit(resource.RLIMIT_FSIZE, ((tmp_path / "run" / LOG).stat().st_size + 9, hard))
        return ""

    try:
        with pytest.raises(OSError, match=r"run\.jsonl"):
            start(tmp_path, ["echo 1 >> log", SUBMIT], approve=full)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not (tmp_path / "w" / "log").exists()
    assert start(tmp_path, ["echo 1 >> log", SUBMIT]).status == "submitted"
    assert (tmp_path / "w" / "log").read_text() == "1\n"


def test_the_user_takes_part(tmp_path):
    words = iter([["Also say hello."], [], [], [], []])
    told = []
    done = start(
        tmp_path,
        ["rm -rf /", "echo ok", SUBMIT],
        approve=lambda call: "not that" if "rm" in call.arguments else "",
        inbox=lambda: next(words),
        report=lambda state, what: told.append((state.steps, what)),
    )
    assert "The user did not allow this: not that" in [turn.text for turn in done.turns]
    assert done.turns[2].text == "Also say hello."
    assert told[:3] == [(0, "asks"), (1, "asks"), (2, "runs bash")]


def test_a_task_of_ten_megabytes_is_logged_once(tmp_path):
    (tmp_path / "w").mkdir()
    task = "x" * (10 << 20)
    model = ScriptedModel([bash(SUBMIT)], window=4000)
    done = run_agent(task, tmp_path / "w", model, "none", AgentOptions(sandbox="none"), folder=tmp_path / "run")
    assert done.status == "context_full"
    assert (tmp_path / "run" / LOG).stat().st_size < 2.2 * len(task)


@pytest.mark.parametrize(("task", "directory"), [("", "w"), ("Do", "missing")])
def test_no_task_and_no_folder_are_said(tmp_path, task, directory):
    (tmp_path / "w").mkdir()
    with pytest.raises(BadInput, match=r"the task is empty|is no folder"):
        run_agent(task, tmp_path / directory, ScriptedModel([]), options=AgentOptions(sandbox="none"), folder=tmp_path)
