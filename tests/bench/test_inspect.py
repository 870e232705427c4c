"""Holdfast under inspect-ai, offline: the eight tasks, our agent and theirs, our compaction, our sandbox."""

import asyncio
import shutil

import pytest

pytest.importorskip("inspect_ai", reason="inspect-ai has an environment of its own: make test-all")

from inspect_ai import eval as evaluate
from inspect_ai.model import (
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageTool,
    ChatMessageUser,
    ContentReasoning,
    ContentText,
    get_model,
)
from inspect_ai.tool import ToolCall
from inspect_ai.util import SandboxUserUnsupportedError

from holdfast.adapters.compactor import Compactor
from holdfast.adapters.inspect_ai import HoldfastCompaction, message_of, turn_of
from holdfast.agent.sandbox import open_sandbox
from holdfast.bench.inspect.registry import HoldfastSandbox, HoldfastSandboxConfig, eight_tasks
from holdfast.bench.tasks.catalog import NEEDS
from holdfast.errors import BadOption, Failed
from holdfast.text.rewrite import TextPlan

node = pytest.mark.skipif(not shutil.which("node"), reason="the programs are built with Node, which is not here")
pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::DeprecationWarning"
)
"""inspect leaves streams open at its end, and calls tenacity as it was called before."""


def boxes():
    found = []
    for name in ("sandlock", "bubblewrap"):
        try:
            open_sandbox(name)
            found.append(name)
        except Failed:
            pass
    return found


def run(tmp_path, box="none", **options):
    task = eight_tasks(box=box, **options)
    (log,) = evaluate(task, model=get_model("holdfast/scripted"), log_dir=str(tmp_path), display="none")
    assert log.status == "success", log.error
    return log


def compactions(log):
    return [event for sample in log.samples for event in sample.events if event.event == "compaction"]


@node
@pytest.mark.parametrize("agent", ["holdfast", "react"])
def test_the_eight_tasks_are_solved_by_the_scripted_model(tmp_path, agent):
    log = run(tmp_path, agent=agent)
    assert {sample.id: sample.scores["hidden_checks"].value for sample in log.samples} == dict.fromkeys(NEEDS, 1)
    usage = log.stats.model_usage["holdfast/scripted"]
    assert usage.input_tokens > 10_000
    assert usage.total_cost == pytest.approx((usage.input_tokens * 3 + usage.output_tokens * 15) / 1e6)


@node
@pytest.mark.parametrize("agent", ["holdfast", "react"])
def test_a_history_over_the_trigger_is_compacted_and_the_task_is_solved(tmp_path, agent):
    log = run(tmp_path, (*boxes(), "none")[0], agent=agent, context="tiered@2", only="8", trigger=3000)
    (sample,) = log.samples
    assert sample.scores["hidden_checks"].value == 1
    made = compactions(log) if agent == "react" else [sample.store["holdfast"]["compactions"]]
    assert made
    if agent == "react":
        assert all(event.tokens_after < event.tokens_before for event in made)
        assert {event.metadata["strategy"] for event in made} == {"HoldfastCompaction"}
    else:
        assert made[0] >= 1


def history(steps):
    said = [ChatMessageSystem(content="You work."), ChatMessageUser(content="Count. Never write to /etc.")]
    for step in range(steps):
        call = ToolCall(id=f"c{step}", function="wc", arguments={"page": step})
        thought = [ContentReasoning(reasoning="hm"), ContentText(text=f"step {step}")]
        said.append(ChatMessageAssistant(content=thought, tool_calls=[call]))
        said.append(ChatMessageTool(content=f"page {step}: " + "words " * 200, tool_call_id=call.id, function="wc"))
    return said


def test_the_strategy_keeps_what_it_does_not_touch_as_the_very_messages():
    said = history(12)
    made, added = asyncio.run(HoldfastCompaction(Compactor(TextPlan(ratio=3, least_recent=1))).compact(None, said, []))
    assert added is None
    assert sum(len(message.text) for message in made) < sum(len(message.text) for message in said) / 2
    assert made[0] is said[0]
    assert made[1] is said[1]
    assert made[-2:] == said[-2:]
    assert len({message.id for message in made}) == len(made)
    called = {call.id for message in made if message.role == "assistant" for call in message.tool_calls or ()}
    assert {message.tool_call_id for message in made if message.role == "tool"} == called


@pytest.mark.parametrize("message", history(1))
def test_a_message_is_a_turn_and_back(message):
    turn = turn_of(message)
    again = message_of(turn, message)
    assert turn_of(again) == turn
    assert turn_of(message_of(turn)).text == turn.text
    assert again.model_dump(exclude={"id"}) == message.model_dump(exclude={"id"})


@pytest.fixture(params=["none", *boxes()])
def box(request):
    made = HoldfastSandbox(HoldfastSandboxConfig(sandbox=request.param))
    yield made
    asyncio.run(HoldfastSandbox.sample_cleanup("t", None, {"default": made}, False))
    assert not made.place.rights.work.exists()


def test_the_sandbox_runs_reads_and_writes(box):
    async def steps():
        await box.write_file("a/b.txt", "one\r\n")
        assert await box.read_file("a/b.txt") == "one\r\n"
        ran = await box.exec(["sh", "-c", "cat; echo $X; echo bad >&2; exit 3"], "given\n", "a", {"X": "y z"})
        assert (ran.success, ran.returncode, ran.stdout, ran.stderr) == (False, 3, "given\ny z\n", "bad\n")
        assert (await box.exec(["cat", "a/b.txt"])).stdout == "one\n"[:3] + "\r\n"
        assert (await box.exec(["no-such-program"])).returncode == 127
        with pytest.raises(TimeoutError):
            await box.exec(["sleep", "9"], timeout=1)
        with pytest.raises(SandboxUserUnsupportedError):
            await box.exec(["true"], user="nobody-here")
        with pytest.raises(FileNotFoundError):
            await box.read_file("none")
        with pytest.raises(IsADirectoryError):
            await box.write_file("a", "")

    asyncio.run(steps())


def test_no_file_outside_of_the_sandbox_is_read_or_written(box, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("key")

    async def steps():
        for name in (str(secret), "../secret", "link"):
            await box.exec(["ln", "-sf", str(secret), "link"])
            with pytest.raises(PermissionError):
                await box.read_file(name)
            with pytest.raises(PermissionError):
                await box.write_file(name, "changed")
        swap = 'for o in "$TMPDIR"/*/out; do rm "$o"; ln -s ' + str(secret) + ' "$o"; done'
        with pytest.raises(OSError, match="out"):
            await box.exec(["sh", "-c", swap])
        if box.place.sandbox.confines:
            assert "key" not in (await box.exec(["cat", str(secret)])).stdout

    asyncio.run(steps())
    assert secret.read_text() == "key"


def test_what_there_is_not_is_refused():
    with pytest.raises(BadOption, match="holdfast or react"):
        eight_tasks(agent="other")
    with pytest.raises(BadOption, match="-M context=merge"):
        eight_tasks(agent="react", context="merge@8")
