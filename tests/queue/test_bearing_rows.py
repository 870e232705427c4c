"""The defects of Bearing, one test each: the number is the row of the list in which each was found."""

import json
import re
import sys
from pathlib import Path

import pytest
from queues import read, run, statuses, task, write

from holdfast.cli.main import main
from holdfast.cli.queue import app
from holdfast.engine.chat import ChatAnswer
from holdfast.errors import BadOption
from holdfast.queue.context import Models, Prior, build_prompt, priors, read_numbered
from holdfast.queue.events import Log
from holdfast.queue.plan_file import PlanFile
from holdfast.queue.planner import INSTRUCTIONS, init, plan_with
from holdfast.queue.run import exit_code
from holdfast.queue.tasks import Config, Plan, Task

FAIL = "cat >> prompts; echo --- >> prompts; echo broken >&2; exit 3"


@pytest.fixture
def command(capsys):
    """The command line: its exit code and what it printed to both streams."""

    def call(*arguments):
        with pytest.raises(SystemExit) as stop:
            main(["queue", *map(str, arguments)])
        printed = capsys.readouterr()
        return stop.value.code, printed.out, printed.err

    return call


def plan(**fields):
    return Plan.model_validate({"project": "p", **fields})


def test_row_84_retry_once_retries_once_and_the_stored_prompt_stays_as_it_was(tmp_path):
    log = write(tmp_path, task("a", FAIL, on_failure="retry_once"))
    run(log)
    first, second, rest = (tmp_path / "prompts").read_text().split("---\n")
    assert (rest, statuses(log)) == ("", {"a": "failed"})
    assert "PREVIOUS ATTEMPT FAILED" not in first
    assert second.count("PREVIOUS ATTEMPT FAILED") == 1
    told = read(tmp_path)["a"]
    assert (told["prompt"], told["result"]["retry_count"]) == ("Do a.", 1)


def test_row_85_a_failure_that_pauses_lets_nothing_else_start(tmp_path):
    log = write(tmp_path, task("a", FAIL, on_failure="pause"), task("b"))
    run(log)
    assert statuses(log) == {"a": "failed", "b": "queued"}
    assert exit_code(log.state) == 1


def test_row_86_a_task_that_a_planner_adds_while_another_runs_is_there_and_is_run(tmp_path):
    edit = (
        "import json; p = json.load(open('tasks.json')); "
        "p['tasks'].append({**p['tasks'][0], 'id': 'b', 'config': {'cli': 'true'}}); "
        "p['tasks'][0]['name'] = 'Renamed'; json.dump(p, open('tasks.json', 'w'))"
    )
    log = write(tmp_path, {**task("a"), "config": {"cli": f"{sys.executable} -c {json.dumps(edit)}"}})
    run(log)
    assert statuses(log) == {"a": "completed", "b": "completed"}
    assert read(tmp_path).keys() == {"a", "b"}


def test_row_87_a_task_left_running_by_a_crash_is_run_again_and_the_end_is_not_called_complete(tmp_path):
    log = write(tmp_path, task("a", result={"status": "running"}))
    run(log)
    assert statuses(log) == {"a": "completed"}
    assert exit_code(log.state) == 0


def test_row_88_a_result_is_given_also_where_another_id_begins_with_its_id(tmp_path):
    log = write(tmp_path, task("task-1"), task("task-10"), task("c", "cat > got", "task-10", "task-1"))
    run(log)
    got = (tmp_path / "got").read_text()
    assert '"id":"task-1",' in got
    assert '"id":"task-10",' in got
    stored = Task.model_validate(task("d", context="[task-10: Ten] did ten"))
    text, _ = build_prompt(stored, plan(), [Prior("task-1", "One", "did one")])
    assert "did ten" in text  # what a planner stored about task-10 is no copy of task-1
    assert "did one" in text


@pytest.mark.parametrize("format_", ["prose", "structured"])
def test_row_89_names_with_pipes_and_brackets_and_failures_are_told_whole(format_):
    odd = Prior("a|b", "x] | files: y", "did it", ("f,g.js",))
    failed = Prior("c", "See", "no disk", failed=True)
    text, _ = build_prompt(Task.model_validate(task("t")), plan(context_format=format_), [odd, failed])
    if format_ == "structured":
        given = json.loads(text.split("PRIOR:")[1].split("\n")[0])
        want = [{"id": "a|b", "did": "did it", "files": ["f,g.js"]}, {"id": "c", "did": "no disk", "failed": True}]
        assert given == want
    else:
        assert r"[a\|b: x\] \| files: y | files: f,g.js] did it" in text
        assert "[c: See | FAILED] no disk" in text


def test_row_96_without_an_embedding_model_every_task_is_given_the_structured_format(tmp_path):
    tasks = [task("a"), task("b", "cat > b.txt", "a"), task("c", "cat > c.txt", "b")]
    log = write(tmp_path, *tasks, context_format="embedding")
    run(log)
    for name in ("b.txt", "c.txt"):
        assert "PRIOR:[{" in (tmp_path / name).read_text()


def test_row_97_only_programs_that_a_task_needs_are_looked_for_and_no_prompt_is_an_argument(tmp_path):
    long = "x" * 10_000_000  # no argument may be as long
    log = write(tmp_path, {**task("a", "wc -c"), "prompt": long})
    run(log)
    assert statuses(log) == {"a": "completed"}
    assert int(log.state.records["a"].result["summary"]) == len(long)


def test_row_98_commands_that_fail_say_so_by_their_exit_code(tmp_path, command):
    write(tmp_path, task("a", "cat > /dev/null; exit 3"))
    assert command("run", tmp_path)[0] == 1
    write(tmp_path, task("a", "true", "nowhere"))
    code, _, told = command("validate", tmp_path)
    assert code == 2
    assert "a -> nowhere" in told


def test_row_99_a_paused_task_is_approved_by_a_command_and_the_planner_finds_its_instructions(tmp_path, command):
    log = write(tmp_path, task("a", checkpoint="pause"), task("b", "true", "a"))
    run(log)
    assert statuses(log) == {"a": "awaiting_review", "b": "queued"}
    assert exit_code(log.state) == 3
    code, told, _ = command("approve", "a", tmp_path, "--json")
    assert (code, json.loads(told)["status"]) == (0, "completed")
    run(log)
    assert statuses(log) == {"a": "completed", "b": "completed"}
    assert "depends_on" in INSTRUCTIONS  # in the package itself, not in a file beside it


def test_row_102_a_number_of_a_list_is_cut_off_whole_and_nothing_else():
    text = "1) wrote db.js, v1.2\n2. added routes\n 3: tests (4) pass\nnot numbered"
    assert read_numbered(text) == {1: "wrote db.js, v1.2", 2: "added routes", 3: "tests (4) pass"}


def test_row_102_a_model_shortens_only_what_lies_between_the_thresholds():
    class Model:
        name = "m"

        def __call__(self, system, prompt, max_tokens, timeout):
            assert "2." not in prompt
            return ChatAnswer("1) wrote db.js, twice")

    cosines = {"near": 0.9, "middle": 0.5, "far": 0.1}
    earlier = [Prior(name, name, f"{name} " * 40) for name in cosines]
    models = Models(lambda query, texts: list(cosines.values()), Model())
    text, measured = build_prompt(Task.model_validate(task("t")), plan(context_format="embedding+llm"), earlier, models)
    assert (measured.kept, measured.shortened, measured.dropped) == (1, 1, 1)
    assert "near near near" in text
    assert "wrote db.js, twice" in text
    assert "far" not in text


def test_row_57_unknown_keys_survive_a_run(tmp_path):
    write(
        tmp_path, {**task("a"), "mine": {"x": 1}, "result": {"status": "queued", "odd": 2}}, theirs=[1], note="é\ud83d"
    )
    before = json.loads((tmp_path / "tasks.json").read_text())
    run(Log(tmp_path))
    after = json.loads((tmp_path / "tasks.json").read_text())
    after.pop("revision")
    assert after["tasks"][0].pop("result").items() >= {"odd": 2, "status": "completed"}.items()
    before["tasks"][0].pop("result")
    assert after == before


def test_a_failed_task_that_is_skipped_lets_its_dependents_run_and_tells_them(tmp_path):
    log = write(tmp_path, task("a", FAIL, on_failure="skip"), task("b", "cat > got", "a"))
    run(log)
    assert statuses(log) == {"a": "skipped", "b": "completed"}
    assert '"failed":true' in (tmp_path / "got").read_text()


def test_the_first_300_characters_are_given_by_default_and_all_where_a_dependency_says_so(tmp_path):
    log = write(
        tmp_path,
        task("a", "cat > /dev/null; seq 1000"),
        task("short", "cat > short", "a"),
        {**task("whole", "cat > whole"), "depends_on": [{"id": "a", "context": "raw"}]},
        {**task("none", "cat > none"), "depends_on": [{"id": "a", "context": "none"}]},
    )
    run(log)
    assert "400" not in (tmp_path / "short").read_text()
    assert "1000" in (tmp_path / "whole").read_text()
    assert "PRIOR" not in (tmp_path / "none").read_text()
    assert read(tmp_path)["whole"]["depends_on"] == [{"id": "a", "context": "raw"}]


def test_what_fits_the_prompt_is_retrieved_from_a_long_result():
    passages = [f"passage {number} about nothing" for number in range(9)] + ["the port is 4701"]
    earlier = [Prior("a", "A", "\n\n".join(passages), how="retrieve")]
    score = lambda query, texts: [float("port" in text) for text in texts]  # noqa: E731
    text, _ = build_prompt(Task.model_validate(task("t")), plan(), earlier, Models(score))
    assert "4701" in text
    assert "passage 8" not in text


def test_priors_of_after_are_none(tmp_path):
    log = write(tmp_path, task("a"), {**task("b"), "depends_on": [{"id": "a", "kind": "after"}]})
    PlanFile(log).sync()
    assert priors(log.state, log.state.tasks["b"]) == []


def test_a_compact_result_keeps_its_first_line_and_the_lines_with_facts():
    chatter = "\n".join(f"Then I looked around a little more, as one does, time {'after ' * 9}time." for _ in range(9))
    earlier = [
        Prior("a", "A", f"Wrote the API.\n{chatter}\nPort 4701, src/db.js, bcryptjs 2.4.3.\n{chatter}", how="compact")
    ]
    text, measured = build_prompt(Task.model_validate(task("t")), plan(), earlier)
    assert "Wrote the API." in text
    assert "Port 4701, src/db.js, bcryptjs 2.4.3." in text
    assert measured.compressed < 400 < measured.original


def test_row_59_a_planner_is_started_with_the_instructions_and_the_goal(tmp_path, monkeypatch, capfd):
    planner = tmp_path / "bin" / "claude"
    planner.parent.mkdir()
    planner.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\nexit 7\n')
    planner.chmod(0o755)
    monkeypatch.setenv("PATH", f"{planner.parent}:/usr/bin:/bin")
    assert plan_with(tmp_path, "claude", goal="a clock") == 7
    told = capfd.readouterr().out
    assert told.startswith("--model\nopus\n")
    assert "plan this: a clock" in told
    instructions = tmp_path / ".holdfast" / "queue" / "planner.md"
    assert str(instructions) in told
    assert instructions.read_text() == INSTRUCTIONS
    with pytest.raises(BadOption, match="--goal"):
        plan_with(tmp_path, "holdfast", "m")


def test_init_writes_an_example_that_leaves_no_trace_once_it_is_replaced(tmp_path):
    assert init(tmp_path) == ["tasks.json", "plan.md", "status.md", "status.html"]
    assert "task-001" in (tmp_path / "status.md").read_text()
    log = write(tmp_path, task("a"))
    PlanFile(log).sync()
    assert read(tmp_path).keys() == {"a"}
    assert init(tmp_path) == ["status.md", "status.html"]


def test_row_103_the_page_names_commands_and_fields_that_there_are():
    page = (Path(__file__).parents[2] / "docs" / "queue.md").read_text()
    assert set(re.findall(r"`config\.(\w+)`", page)) <= set(Config.model_fields)
    commands = {one.name or one.callback.__name__ for one in app.registered_commands}
    assert set(re.findall(r"holdfast queue (\w+)", page)) <= commands
