"""What the agent sends to endpoints and local models, and what it makes of their answers."""

import json

import pytest

from conftest import build_pair
from holdfast.agent import AgentOptions, Limits, ModelAnswer, ScriptedModel, run_agent
from holdfast.agent.contexts import open_context, parse_spec
from holdfast.agent.local import LatentContext, LocalModel
from holdfast.agent.open_model import ModelOptions, open_model
from holdfast.agent.profiles import PROFILES
from holdfast.agent.trajectory import read_rows
from holdfast.errors import BadOption, Failed, PromptTooLong
from holdfast.transcript.turn import Role, ToolCall, Turn
from stub_endpoint import Stub, serving

TOOLS = [tool.definition() for tool in PROFILES["bash"].tools]
CALL = ToolCall("c1", "bash", '{"command": "ls"}')
TURNS = (
    Turn(Role.SYSTEM, "Work."),
    Turn(Role.USER, "The task."),
    Turn(Role.ASSISTANT, "Look.", calls=(CALL,)),
    Turn(Role.TOOL, "a.txt", call_id="c1"),
)


def openai_body(calls, finish="tool_calls", content=None):
    message = {"role": "assistant", "content": content, "tool_calls": calls}
    usage = {"prompt_tokens": 100, "completion_tokens": 9, "prompt_tokens_details": {"cached_tokens": 60}}
    return json.dumps({"choices": [{"message": message, "finish_reason": finish}], "usage": usage}).encode()


ANTHROPIC = json.dumps(
    {
        "content": [
            {"type": "text", "text": "Next."},
            {"type": "tool_use", "id": "t1", "name": "bash", "input": {"command": "pwd"}},
        ],
        "stop_reason": "tool_use",
        "usage": {
            "input_tokens": 4,
            "cache_read_input_tokens": 60,
            "cache_creation_input_tokens": 20,
            "output_tokens": 9,
        },
    }
).encode()


def ask(kind, stub, turns=TURNS):
    return open_model(f"{kind}:m", ModelOptions(base_url=stub.url)).answer(turns, TOOLS, 50, 20)


def test_chat_completions_carry_tools_calls_and_results():
    call = {"id": "x", "type": "function", "function": {"name": "bash", "arguments": '{"command": "pwd"}'}}
    with serving(Stub(body=openai_body([call]))) as stub:
        given = ask("openai", stub)
    sent = stub.requests[0]
    assert [m["role"] for m in sent["messages"]] == ["system", "user", "assistant", "tool"]
    assert sent["messages"][3]["tool_call_id"] == "c1"
    assert (sent["tools"], sent["max_tokens"]) == (TOOLS, 50)
    assert given.turn.calls == (ToolCall("x", "bash", '{"command": "pwd"}'),)
    assert (given.usage.input, given.usage.cached, given.usage.output, given.cut) == (40, 60, 9, False)


def test_messages_carry_breakpoints_behind_system_task_and_end():
    with serving(Stub(body=ANTHROPIC)) as stub:
        given = ask("anthropic", stub)
    sent = stub.requests[0]
    marked = [block for block in (*sent["system"], *(b for m in sent["messages"] for b in m["content"]))]
    assert ["cache_control" in block for block in marked] == [True, True, False, False, True]
    assert sent["messages"][-1]["content"][0]["tool_use_id"] == "c1"
    assert sent["tools"][0]["input_schema"]["required"] == ["command"]
    assert given.turn == Turn(Role.ASSISTANT, "Next.", calls=(ToolCall("t1", "bash", '{"command": "pwd"}'),))
    assert (given.usage.input, given.usage.cached, given.usage.written, given.usage.output) == (4, 60, 20, 9)


def test_a_cut_answer_is_known_and_nulls_are_nothing():
    with serving(Stub(body=openai_body(None, "length", "half"))) as stub:
        given = ask("openai", stub)
    assert (given.turn, given.cut) == (Turn(Role.ASSISTANT, "half"), True)


@pytest.mark.parametrize(
    "words", ["prompt is too long: 9 tokens > 8 maximum", "This model's maximum context length is"]
)
def test_a_full_window_is_told_apart_from_other_refusals(words):
    class Refusing(Stub):
        def answer(self, path, request):
            return 400, json.dumps({"error": {"type": "invalid", "message": words}}).encode()

    with serving(Refusing()) as stub, pytest.raises(PromptTooLong, match=words[:20]):
        ask("anthropic", stub)
    with serving(Stub(status=400)) as stub, pytest.raises(Failed, match="stub trouble"):
        ask("openai", stub)


def test_a_model_that_answers_for_ever_ends_the_run_which_can_go_on(tmp_path):
    with serving(Stub(drip=0.01)) as stub:
        model = open_model("openai:m", ModelOptions(base_url=stub.url))
        limits = Limits(answer_seconds=1)
        done = run_agent(
            "x", tmp_path, model, options=AgentOptions(sandbox="none", limits=limits), folder=tmp_path / "r"
        )
    assert done.status == "model_failed"
    assert "no answer within 1 s" in done.text


def test_specs_name_what_there_is():
    assert [parse_spec(s).kind for s in ("none", "tiered@4", "merge@8", "latent:truncate", "truncate")] == [
        *("none", "text", "latent", "latent", "text"),
    ]
    for wrong in ("tierd", "tiered@x", "tiered@1", "latent:tiered", "merge@inf"):
        with pytest.raises(BadOption):
            parse_spec(wrong)
    with pytest.raises(BadOption, match="inside a model of this process"):
        open_context("merge@8", open_model("openai:m", ModelOptions(base_url="http://127.0.0.1:9")))


@pytest.mark.parametrize("spec", ["latent:truncate@8", "mementos:ledger"])
def test_a_local_session_grows_is_compacted_in_place_and_reads_nothing_twice(spec):
    model = LocalModel(build_pair("qwen2").engine)
    context = open_context(spec, model, trigger=1200)
    assert isinstance(context, LatentContext)
    turns, made = [Turn(Role.SYSTEM, "Work."), Turn(Role.USER, "Go on.")], []
    for step in range(6):
        sent = context.prepare(turns)
        made += [sent.compaction] if sent.compaction else []
        given = model.answer(sent.turns, [], 8, 60)
        assert given.usage.input == 0  # `prepare` has read what is new
        turns += [given.turn, Turn(Role.USER, f"<returncode>0</returncode>\n{step}: " + "words of the tool " * 19)]
    assert made
    assert all(each.after < each.before for each in made)
    assert len(model.session.turns) == len(turns) - 1
    assert model.session.compactions == len(made)


def test_a_rewritten_history_is_read_again_from_where_it_differs():
    model = LocalModel(build_pair("qwen2").engine)
    model.read([Turn(Role.SYSTEM, "Work."), Turn(Role.USER, "One."), Turn(Role.ASSISTANT, "Two.")])
    model.read([Turn(Role.SYSTEM, "Work."), Turn(Role.USER, "Other.")])
    assert [turn.text for turn in model.session.turns] == ["Work.", "Other."]


def ask_compaction(number):
    return Turn(Role.ASSISTANT, "The part is done.", calls=(ToolCall(f"k{number}", "compact", "{}"),))


class Reader(LocalModel):
    """A tiny model whose words are a script's."""

    def __init__(self, engine, script):
        self.script = list(script)
        super().__init__(engine)

    def answer(self, turns, tools, max_tokens, seconds):
        self.read(turns)
        at = sum(turn.role is Role.ASSISTANT for turn in turns)
        if at >= len(self.script):
            raise Failed("the script has ended")
        return ModelAnswer(self.script[at])


def bash(number, command="seq 1 80"):
    return Turn(Role.ASSISTANT, "Next.", calls=(ToolCall(f"c{number}", "bash", json.dumps({"command": command})),))


WORKS = [*map(bash, range(6)), ask_compaction(1), bash(7), bash(8, "echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT")]


@pytest.mark.parametrize("spec", ["tiered@20", "latent:truncate@8"])
def test_the_model_compacts_when_it_asks_for_it_and_only_then(tmp_path, spec):
    model = ScriptedModel(WORKS) if spec == "tiered@20" else Reader(build_pair("qwen2").engine, WORKS)
    options = AgentOptions(sandbox="none", trigger=6000, compact_tool=True)
    done = run_agent("x", tmp_path, model, spec, options, folder=tmp_path / "r")
    kinds = [row["kind"] for row in read_rows(done.folder) if row["kind"] in ("answer", "compaction")]
    assert kinds == ["answer"] * 7 + ["compaction"] + ["answer"] * 2
    assert done.status == "submitted"


def test_the_tool_is_refused_where_it_could_do_nothing(tmp_path):
    for context, calls in (("none", "api"), ("tiered", "fence")):
        options = AgentOptions(calls=calls, sandbox="none", compact_tool=True)
        with pytest.raises(BadOption, match="cannot have the tool compact"):
            run_agent("x", tmp_path, ScriptedModel([]), context, options, folder=tmp_path / "r")


def test_a_resumed_run_goes_on_with_the_session_that_it_stored(tmp_path):
    engine = build_pair("qwen2").engine
    options = AgentOptions(sandbox="none", trigger=1500)

    def start(script):
        model = Reader(engine, script)
        return model, run_agent("x", tmp_path, model, "latent:truncate@8", options, folder=tmp_path / "r")

    model, ended = start(WORKS[:5])
    assert (ended.status, model.session.compactions > 0) == ("model_failed", True)
    held = model.session
    again, done = start([*WORKS[:5], *WORKS[7:]])
    assert done.status == "submitted"
    kinds = [[event["kind"] for event in session.events] for session in (held, again.session)]
    assert kinds[1][: len(kinds[0])] == kinds[0]  # what was compacted before is compacted still, and was not read anew
    assert again.session.turns[: len(held.turns)] == held.turns
