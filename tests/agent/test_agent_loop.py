"""What a run of the agent promises, with scripted models and no sandbox."""

import json

import pytest

from holdfast.agent import AgentOptions, Limits, ModelAnswer, ScriptedModel, run_agent
from holdfast.agent.state import Row
from holdfast.agent.trajectory import ATIF, MINI, read_rows
from holdfast.cost.prices import Prices, Rates
from holdfast.cost.usage import Usage
from holdfast.errors import BadInput
from holdfast.transcript.read import read
from holdfast.transcript.turn import Role, ToolCall, Turn

SUBMIT = "echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT && echo done"


def bash(command: str, call: str = "a") -> Turn:
    """An answer that runs a command by the API."""
    return Turn(Role.ASSISTANT, "Next.", calls=(ToolCall(call, "bash", json.dumps({"command": command})),))


@pytest.fixture
def run(tmp_path):
    work = tmp_path / "work"
    work.mkdir()

    def start(script, context="none", task="Write a.txt", **options):
        model = script if isinstance(script, ScriptedModel) else ScriptedModel(script)
        return run_agent(
            task, work, model, context, AgentOptions(**{"sandbox": "none"} | options), folder=tmp_path / "run"
        )

    start.work, start.folder = work, tmp_path / "run"
    return start


def rows(run, kind: str) -> list[Row]:
    return [row for row in read_rows(run.folder) if row["kind"] == kind]


@pytest.mark.parametrize("calls", ["api", "fence"])
def test_the_agent_works_until_it_hands_in(run, calls):
    script = ["echo hi > a.txt", "cat a.txt", SUBMIT]
    wire = [bash(c) if calls == "api" else f"Next.\n```bash\n{c}\n```" for c in script]
    done = run(wire, calls=calls)
    assert (done.status, done.text, done.steps) == ("submitted", "done\n", 3)
    assert (run.work / "a.txt").read_text() == "hi\n"
    assert [t.text for t in done.turns if t.role is Role.TOOL][
        1
    ] == "<returncode>0</returncode>\n<output>\nhi\n</output>"


@pytest.mark.parametrize("calls", ["api", "fence"])
def test_both_files_are_read_back_as_the_run(run, calls):
    wire = [bash(c, c) if calls == "api" else f"Next.\n```bash\n{c}\n```" for c in ("echo one", "echo two", SUBMIT)]
    done = run(wire, calls=calls)
    said = [(turn.role, turn.text, [json.loads(call.arguments) for call in turn.calls]) for turn in done.turns]
    for name in (MINI, ATIF):
        back = read(run.folder / name)
        assert not back.skipped
        assert [(t.role, t.text, [json.loads(c.arguments) for c in t.calls]) for t in back.turns] == said


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (ToolCall("a", "python", "{}"), "There is no tool 'python'; there are: bash"),
        (ToolCall("a", "bash", '{"command": "ls'), "are not JSON"),
        (ToolCall("a", "bash", "[1]"), "must be a JSON object"),
        (ToolCall("a", "bash", "{}"), "lacks command"),
        (ToolCall("a", "bash", '{"command": 3}'), "must have text for command"),
        (ToolCall("a", "bash", '{"command": "ls", "cwd": "/"}'), "does not take cwd"),
    ],
)
def test_a_malformed_call_comes_back_with_what_was_wrong(run, call, words):
    done = run([Turn(Role.ASSISTANT, "", calls=(call,)), bash(SUBMIT)])
    seen = next(turn for turn in done.turns if turn.role is Role.TOOL)
    assert words in seen.text
    assert seen.is_error
    assert (done.status, done.account.calls) == ("submitted", 2)


@pytest.mark.parametrize(
    "answer", ["", "   ", "I think I am done.", "```bash\nls", "```bash\nls\n```\n```bash\nls\n```"]
)
def test_answers_without_an_action_end_the_run_after_three(run, answer):
    done = run([answer] * 9, calls="fence")
    assert (done.status, done.steps) == ("limit", 3)
    assert "3 answers in a row" in done.text


def test_limits_stop_in_words_and_a_higher_one_goes_on(run):
    prices = Prices("scripted", Rates(1e6, 0, 0, 0, 0))
    script = [ModelAnswer(bash(f"echo {n}", str(n)), Usage(input=1)) for n in range(4)] + [bash(SUBMIT)]
    assert run(script, limits=Limits(steps=2)).text.startswith("the limit of 2 steps")
    dear = run(ScriptedModel(script, prices=prices), limits=Limits(money=1))
    assert (dear.text[:21], dear.steps, dear.account.money) == ("the limit of 1 USD is", 3, 1)
    assert run(script).status == "submitted"


def test_an_ended_run_is_given_back_and_another_kind_of_run_is_refused(run):
    first = run([bash(SUBMIT)])
    assert run([]).turns == first.turns
    with pytest.raises(BadInput, match="holds a run with profile bash"):
        run([], profile="files")


def test_history_over_the_trigger_is_compacted_and_what_was_sent_is_in_the_log(run):
    long = "seq 1 400"
    model = ScriptedModel([bash(long, str(n)) for n in range(8)] + [bash(SUBMIT)])
    done = run(model, "tiered", trigger=3000)
    assert done.status == "submitted"
    assert done.compactions >= 1
    assert len(rows(run, "compaction")) == done.compactions
    sizes = [sum(len(turn.text) for turn in prompt) for prompt in model.prompts]
    assert max(sizes) < sum(len(turn.text) for turn in done.turns) / 2


def test_a_prompt_that_is_too_long_is_compacted_once_and_then_the_run_stops(run):
    script = [bash("seq 1 900", str(n)) for n in range(9)] + [bash(SUBMIT)]
    assert run(ScriptedModel(script, window=6000), "tiered", trigger=10**6).status == "submitted"


def test_without_a_context_a_full_window_stops_in_words(run):
    done = run(ScriptedModel([bash("seq 1 2000")] * 3, window=4000))
    assert done.status == "context_full"
    assert "Resume with another context" in done.text


def test_a_call_that_is_written_as_text_hands_nothing_in(run):
    written = '```json\n{"name": "write_file", "arguments": {"path": "a", "content": "b"}}\n```'
    done = run([written, "All done."], profile="files")
    assert "writes a call as text" in done.turns[3].text
    assert (done.status, done.text) == ("submitted", "All done.")
