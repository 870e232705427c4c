"""The defects of Bearing's agent and compressor, one test each: the number is the row in which each was found."""

import json

import pytest

from holdfast.agent import AgentOptions, Hooks, ModelAnswer, ScriptedModel, run_agent
from holdfast.agent.contexts import open_context
from holdfast.agent.trajectory import read_rows
from holdfast.cost.prices import Prices, Rates
from holdfast.cost.usage import Usage
from holdfast.engine.chat import ChatAnswer
from holdfast.errors import Failed
from holdfast.transcript.turn import Role, ToolCall, Turn

SUBMIT = "echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT && echo done"
TASK = "Count the lines. The port is 4701. Never write to /etc/hosts."
MARK = "marker-in-the-middle"
LONG = f"seq 1 300; echo {MARK}; seq 1 300"
DEAR = Prices("notes", Rates(1000, 0, 0, 0, 0))  # 0.001 USD for each token that goes in
SUMMARIES = "summarize:trigger=100"


class Notes:
    """A summarising model."""

    name = "notes"

    def __init__(self, *answers):
        self.answers, self.prompts = answers, []

    def __call__(self, system, prompt, max_tokens, timeout):
        self.prompts.append(prompt)
        answer = self.answers[min(len(self.prompts), len(self.answers)) - 1]
        if isinstance(answer, Exception):
            raise answer
        return ChatAnswer(answer, tokens_in=1000, tokens_out=10)


def call(name, number=0, **arguments):
    return Turn(Role.ASSISTANT, "Next.", calls=(ToolCall(f"c{number}", name, json.dumps(arguments)),))


def run(tmp_path, answers, context="none", *, profile="bash", **hooks):
    work = tmp_path / "work"
    work.mkdir(exist_ok=True)
    model = answers if isinstance(answers, ScriptedModel) else ScriptedModel(answers)
    options = AgentOptions(profile, sandbox="none")
    return run_agent(TASK, work, model, context, options, Hooks(**hooks), tmp_path / "run")


def work_on(tmp_path, chat, steps=14, **hooks):
    model = ScriptedModel([*(call("bash", at, command=LONG) for at in range(steps)), call("bash", 99, command=SUBMIT)])
    context = open_context(SUMMARIES, model, trigger=4000, chat=chat, prices=DEAR)
    return run(tmp_path, model, context, **hooks), model


def test_row_90_the_tokens_of_the_compactor_are_in_the_account_and_cost(tmp_path):
    chat = Notes("## Open\n- count on (turn 3)")
    done, _ = work_on(tmp_path, chat)
    assert done.compactions > 0
    asked = len(chat.prompts)
    assert done.account.compactor == Usage(input=1000 * asked, output=10 * asked)
    assert done.account.money == pytest.approx(asked)


@pytest.mark.parametrize("summary", ["", "ok", "Nothing happened so far.", "{"])
def test_row_91_it_does_not_fire_every_turn_and_a_bad_summary_replaces_nothing_that_counts(tmp_path, summary):
    done, model = work_on(tmp_path, Notes(summary))
    steps = [row["kind"] for row in read_rows(done.folder) if row["kind"] in ("answer", "compaction")]
    assert 0 < done.compactions < done.steps / 2
    assert "compaction compaction" not in " ".join(steps)
    for prompt in model.prompts:
        told = "\n".join(turn.text for turn in prompt)
        assert "4701" in told
        assert "Never write to /etc/hosts" in told
    for at, prompt in enumerate(model.prompts[1:]):
        assert prompt[-1].call_id == f"c{at}"  # the newest exchange stays word for word
        assert MARK in prompt[-1].text


def test_row_92_a_summariser_reads_results_whole(tmp_path):
    chat = Notes("ok")
    work_on(tmp_path, chat)
    assert MARK in chat.prompts[0]  # it stands behind the first 1,000 characters of a result


@pytest.mark.parametrize("error", [Failed("notes: 529 overloaded"), TimeoutError("slow"), ValueError("no JSON")])
def test_row_93_a_compactor_that_fails_does_not_end_the_run(tmp_path, error):
    told = []
    done, _ = work_on(tmp_path, Notes(error), report=lambda state, what: told.append(what))
    assert done.status == "submitted"
    compacted = [row for row in read_rows(done.folder) if row["kind"] == "compaction"]
    notes = [note for row in compacted for note in row["notes"]] + told
    assert any(str(error) in note for note in notes), notes


def test_row_94_a_truncated_call_is_not_run(tmp_path):
    cut = ModelAnswer(call("write_file", path="half.py", content="def f("), Usage(output=4096), cut=True)
    done = run(tmp_path, [cut, "All done."], profile="files")
    assert not (tmp_path / "work" / "half.py").exists()
    assert "cut at 4096 tokens" in done.turns[3].text


@pytest.mark.parametrize("path", ["/etc/passwd", "../secret", "link", "a/../../secret"])
def test_row_95_no_tool_reads_or_writes_a_file_outside_of_the_work_tree(tmp_path, path):
    (tmp_path / "work" / "a").mkdir(parents=True)
    (tmp_path / "secret").write_text("hunter2")
    (tmp_path / "work" / "link").symlink_to(tmp_path / "secret")
    answers = [call("read_file", path=path), call("write_file", 1, path=path, content="x"), "All done."]
    done = run(tmp_path, answers, profile="files")
    seen = [turn for turn in done.turns if turn.role is Role.TOOL]
    assert [(turn.is_error, "outside of the work tree" in turn.text) for turn in seen] == [(True, True)] * 2
    assert "hunter2" not in "".join(turn.text for turn in done.turns)
    assert (tmp_path / "secret").read_text() == "hunter2"
