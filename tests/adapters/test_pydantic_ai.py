"""pydantic-ai's own agent loop with a function model: small requests, paired calls, stable prefixes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from requests_of_a_loop import STEPS, TASK, TRIGGER, check_requests, observation

pytest.importorskip("pydantic_ai", reason="pydantic-ai is not installed")

from pydantic_ai import Agent
from pydantic_ai.capabilities import ProcessHistory
from pydantic_ai.messages import (
    BinaryContent,
    FilePart,
    ModelMessage,
    ModelRequest,
    ModelResponse,
    RetryFeedbackPart,
    RetryInfo,
    SystemPromptPart,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.models.test import TestModel

from holdfast.adapters.compactor import Compactor
from holdfast.adapters.pydantic_ai import HoldfastProcessor, TurnSource, _turn_sources, _turns, _write_turn
from holdfast.text.rewrite import Rewritten, TextPlan
from holdfast.transcript.turn import Role, Turn


def shown(messages: list[ModelMessage]) -> list[str]:
    """What a model is sent, part by part; times are not sent."""
    return [f"{said.message.kind} {turn}" for said, turn in zip(_turn_sources(messages), turns(messages), strict=True)]


def turns(messages: list[ModelMessage]) -> list[Turn]:
    return _turns(list(_turn_sources(messages)))


@pytest.mark.parametrize("method", ["tiered", "truncate", "mask_observations"])
def test_a_loop_stays_small_legal_and_byte_stable(method):
    done: list[Rewritten] = []
    failures: list[str] = []
    seen: list[list[ModelMessage]] = []

    def answer(messages: list[ModelMessage], _: AgentInfo) -> ModelResponse:
        seen.append(list(messages))
        step = len(seen) - 1
        if step == STEPS:
            return ModelResponse(parts=[TextPart("done")])
        return ModelResponse(parts=[ToolCallPart("run", {"step": step}, f"c{step}")])

    compactor = Compactor(
        TextPlan(method, budget=TRIGGER // 2), TRIGGER, on_compaction=done.append, on_failure=failures.append
    )
    agent = Agent(
        FunctionModel(answer),
        system_prompt="You are careful.",
        capabilities=[ProcessHistory(HoldfastProcessor(compactor))],
    )

    @agent.tool_plain
    def run(step: int) -> str:
        return observation(step)

    assert asyncio.run(agent.run(TASK)).output == "done"
    assert failures == []
    check_requests([turns(request) for request in seen], [shown(request) for request in seen], len(done))
    assert done[-1].draft.raw.turns[3].text == observation(0)


def test_the_library_itself_takes_a_compacted_history():
    agent = Agent(TestModel(), capabilities=[ProcessHistory(HoldfastProcessor(Compactor()))])

    @agent.tool_plain
    def run(step: int) -> str:
        return observation(step)

    first = asyncio.run(agent.run(TASK))
    assert asyncio.run(agent.run("Go on.", message_history=first.all_messages())).output


def test_a_part_that_only_the_library_understands_goes_through_and_is_reported():
    failures: list[str] = []
    picture = FilePart(BinaryContent(b"x", media_type="image/png"))
    history: list[ModelMessage] = [ModelRequest(parts=[UserPromptPart(TASK)]), ModelResponse(parts=[picture])]
    made = HoldfastProcessor(Compactor(on_failure=failures.append))(history)
    assert made == history
    assert "FilePart" in failures[0]


def test_untouched_messages_are_the_very_ones():
    history: list[ModelMessage] = [
        ModelRequest(parts=[SystemPromptPart("s"), UserPromptPart(TASK)]),
        ModelResponse(parts=[TextPart("t"), ToolCallPart("run", "{}", "a"), ToolCallPart("run", "{}", "b")]),
        ModelRequest(parts=[ToolReturnPart("run", "1", "a"), ToolReturnPart("run", "2", "b"), UserPromptPart("and?")]),
        ModelRequest(parts=[], instructions="i"),
    ]
    made = HoldfastProcessor(Compactor())(history)
    assert all(one is other for one, other in zip(made, history, strict=True))


def test_every_part_is_read_as_who_said_it():
    picture = BinaryContent(b"x", media_type="image/png")
    retried = ToolReturnPart("run", "wrong", "a", outcome="failed")
    parts: list[Any] = [
        SystemPromptPart("s"),
        UserPromptPart(["look", picture]),
        retried,
        RetryFeedbackPart("again", retry=RetryInfo("model_retry", attempt=1, max_retries=2)),
    ]
    read = turns([ModelRequest(parts=parts)])
    assert [turn.role for turn in read] == [Role.SYSTEM, Role.USER, Role.TOOL, Role.TOOL]
    assert read[1].text == "look\n[binary]"
    assert (read[2].call_id, read[2].is_error) == ("a", True)
    assert read[3].call_id == ""


def test_a_rewritten_response_keeps_its_thoughts_and_the_calls_that_it_still_has():
    thought, one, two = (
        ThinkingPart("hm", signature="s"),
        ToolCallPart("run", "{}", "a"),
        ToolCallPart("run", "{}", "b"),
    )
    message = ModelResponse(parts=[thought, TextPart("old", id="x", provider_name="p"), one, two])
    read = turns([message])[0]
    kept = _write_turn(Turn(Role.ASSISTANT, "new", "hm", read.calls[:1]), TurnSource(message)).message
    assert list(kept.parts) == [thought, TextPart("new"), one]
    assert list(_write_turn(Turn(Role.ASSISTANT, "new"), TurnSource(message)).message.parts) == [TextPart("new")]
    assert list(_write_turn(read, None).message.parts) == [TextPart("old"), one, two]


def test_a_rewritten_result_is_still_the_answer_to_its_call():
    part = ToolReturnPart("run", "long", "a")
    message = ModelRequest(parts=[part])
    made = _write_turn(Turn(Role.TOOL, "short", call_id="a"), TurnSource(message, part))
    assert (made.part.content, made.part.tool_call_id, made.part.tool_name) == ("short", "a", "run")
