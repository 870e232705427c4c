"""The condenser in OpenHands' own conversation loop with its test model; needs Python 3.12 or newer."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from requests_of_a_loop import RULES, STEPS, TASK, TRIGGER, check_requests, observation

if sys.version_info < (3, 12):
    pytest.skip("openhands-sdk needs Python 3.12 or newer", allow_module_level=True)
pytest.importorskip("openhands.sdk", reason="openhands-sdk is not installed")

from openhands.sdk import Agent, Conversation, Tool, register_tool
from openhands.sdk.context.condenser.base import CondenserBase
from openhands.sdk.context.view import View
from openhands.sdk.event import ActionEvent, Condensation, MessageEvent, ObservationEvent
from openhands.sdk.llm import LLM, Message, MessageToolCall, TextContent
from openhands.sdk.llm.exceptions import LLMContextWindowExceedError
from openhands.sdk.testing import TestLLM
from openhands.sdk.tool import Action, Observation, ToolDefinition, ToolExecutor
from pydantic import TypeAdapter

from holdfast.adapters.compactor import Compactor
from holdfast.adapters.openhands import HoldfastCondenser, _turn, event_of, turns_of
from holdfast.text.rewrite import Rewritten, TextPlan
from holdfast.transcript.cuts import check_legal


class RunAction(Action):
    step: int


class RunObservation(Observation):
    pass


class Run(ToolExecutor[RunAction, RunObservation]):
    def __call__(self, action: RunAction, conversation: Any = None) -> RunObservation:
        return RunObservation.from_text(observation(action.step))


class RunTool(ToolDefinition[RunAction, RunObservation]):
    @classmethod
    def create(cls, *_: Any, **__: Any) -> Sequence[RunTool]:
        return [cls(description="run", action_type=RunAction, observation_type=RunObservation, executor=Run())]


register_tool("RunTool", RunTool)


class Recording(TestLLM):
    """Keeps what it is sent."""

    def completion(self, messages: list[Message], *args: Any, **kwargs: Any) -> Any:
        SEEN.append(messages)
        return super().completion(messages, *args, **kwargs)


SEEN: list[list[Message]] = []


def call(step: int) -> Message:
    made = MessageToolCall(id=f"c{step}", name="run", arguments=json.dumps({"step": step}), origin="completion")
    return Message(role="assistant", content=[TextContent(text="")], tool_calls=[made])


def conversation(answers: list[Message | Exception], condenser: CondenserBase, folder: Path) -> Any:
    SEEN.clear()
    llm = Recording.from_messages(answers)
    agent = Agent(llm=llm, tools=[Tool(name="RunTool")], condenser=condenser, system_prompt="You are careful.")
    made = Conversation(agent=agent, workspace=str(folder), visualizer=None)
    made.send_message(TASK)
    made.run()
    return made


DONE = Message(role="assistant", content=[TextContent(text="done")])


@pytest.mark.parametrize("method", ["tiered", "truncate", "mask_observations"])
def test_a_loop_stays_small_legal_and_byte_stable(method, tmp_path):
    done: list[Rewritten] = []
    failures: list[str] = []
    plan = TextPlan(method, budget=TRIGGER // 2)
    compactor = Compactor(plan, TRIGGER, on_compaction=done.append, on_failure=failures.append)
    condenser = HoldfastCondenser(method=method, trigger=TRIGGER).with_compactor(compactor)
    held = conversation([*(call(step) for step in range(STEPS)), DONE], condenser, tmp_path)
    assert failures == []
    requests = [[_turn(message, 0) for message in request] for request in SEEN]
    shown = [[message.model_dump_json() for message in request] for request in SEEN]
    check_requests(requests, shown, len(done))
    assert sum(isinstance(event, ObservationEvent) for event in held.state.events) == STEPS


def test_a_window_that_is_exceeded_ends_in_a_condensation_and_the_loop_goes_on(tmp_path):
    condenser = HoldfastCondenser(method="tiered", trigger=100_000, budget=TRIGGER // 2)
    answers = [*(call(step) for step in range(STEPS)), LLMContextWindowExceedError(), DONE]
    held = conversation(answers, condenser, tmp_path)
    events = list(held.state.events)
    assert sum(isinstance(event, Condensation) for event in events) == 1
    after = [_turn(message, 0) for message in SEEN[-1]]
    check_legal(after)
    assert len(after) < len(SEEN[-2])
    assert all(rule in "\n".join(turn.text for turn in after) for rule in RULES)


def test_the_library_can_store_it():
    condenser = HoldfastCondenser(method="truncate", trigger=500, budget=200)
    stored = TypeAdapter(CondenserBase).validate_json(condenser.model_dump_json())
    assert stored == condenser
    assert stored.handles_condensation_requests()


def test_views_are_never_changed():
    events = [MessageEvent(source="user", llm_message=Message(role="user", content=[TextContent(text=TASK)]))]
    view = View(events=events)
    made = HoldfastCondenser().condense(view)
    assert made.events == events
    assert made is not view


def test_a_rewritten_action_is_still_the_call():
    message = call(1).tool_calls[0]
    action = ActionEvent(
        thought=[TextContent(text="long")],
        reasoning_content="hm",
        action=RunAction(step=1),
        tool_name="run",
        tool_call_id="c1",
        tool_call=message,
        llm_response_id="r",
    )
    turn = turns_of([action])[0]
    from dataclasses import replace

    made = event_of(replace(turn, text="short", reasoning=""), action)
    assert isinstance(made, ActionEvent)
    assert (made.thought[0].text, made.reasoning_content, made.tool_call_id) == ("short", None, "c1")
    (told,) = turn.calls
    other = event_of(replace(turn, calls=(replace(told, arguments='{"step": "masked"}'),)), action)
    assert other.to_llm_message().tool_calls[0].arguments == '{"step": "masked"}'
    assert isinstance(LLM, type)
