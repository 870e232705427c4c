"""LangChain's own agent loop with a fake model: small requests, paired calls, stable prefixes, whole state."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from requests_of_a_loop import STEPS, TASK, TRIGGER, check_requests, observation

pytest.importorskip("langchain.agents", reason="langchain is not installed")

from langchain.agents import create_agent
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
    message_to_dict,
)
from langchain_core.tools import tool

from holdfast.adapters.compactor import Compactor
from holdfast.adapters.langchain import HoldfastMiddleware, message_of, turns_of
from holdfast.text.rewrite import Rewritten, TextPlan
from holdfast.transcript.turn import Role, Turn

SYSTEM = "You are careful."


@tool
def run(step: int) -> str:
    """Run one step."""
    return observation(step)


class Model(GenericFakeChatModel):
    """Records what it is sent."""

    seen: list[list[BaseMessage]] = []  # noqa: RUF012

    def bind_tools(self, tools: Any, **_: Any) -> Model:
        return self

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> Any:
        self.seen.append(list(messages))
        return super()._generate(messages, *args, **kwargs)


def model() -> Model:
    calls = [
        AIMessage("", tool_calls=[{"id": f"c{step}", "name": "run", "args": {"step": step}}]) for step in range(STEPS)
    ]
    return Model(messages=iter([*calls, AIMessage("done")]), seen=[])


def agent(model: Model, compactor: Compactor) -> Any:
    return create_agent(model, [run], system_prompt=SYSTEM, middleware=[HoldfastMiddleware(compactor)])


CONFIG: Any = {"recursion_limit": 10 * STEPS}


@pytest.mark.parametrize("method", ["tiered", "truncate"])
@pytest.mark.parametrize("how", ["invoke", "ainvoke"])
def test_a_loop_stays_small_legal_and_byte_stable(method, how):
    done: list[Rewritten] = []
    failures: list[str] = []
    compactor = Compactor(
        TextPlan(method, budget=TRIGGER // 2), TRIGGER, on_compaction=done.append, on_failure=failures.append
    )
    fake = model()
    given = {"messages": [HumanMessage(TASK)]}
    built = agent(fake, compactor)
    state = built.invoke(given, CONFIG) if how == "invoke" else asyncio.run(built.ainvoke(given, CONFIG))
    assert failures == []
    shown = [[str(message_to_dict(message)) for message in request] for request in fake.seen]
    check_requests([turns_of(request) for request in fake.seen], shown, len(done))
    assert all(request[0].content == SYSTEM for request in fake.seen)
    assert len(state["messages"]) == 2 * STEPS + 2
    assert state["messages"][2].content == observation(0)


def test_messages_of_an_unknown_kind_go_through_and_are_reported():
    failures: list[str] = []
    compactor = Compactor(trigger=TRIGGER, on_failure=failures.append)
    messages = [HumanMessage(TASK), RemoveMessage(id="x")]
    assert compactor.apply(messages, turns_of, message_of) == messages
    assert "RemoveMessage" in failures[0]


def test_a_rewritten_message_keeps_what_it_carries():
    thought = {"type": "thinking", "thinking": "hm", "signature": "s"}
    used = {"type": "tool_use", "id": "a", "name": "run", "input": {"step": 1}}
    original = AIMessage(
        [thought, {"type": "text", "text": "old"}, used],
        tool_calls=[{"id": "a", "name": "run", "args": {"step": 1}}],
        id="m1",
    )
    turn = turns_of([original])[0]
    assert (turn.text, turn.reasoning, [call.id for call in turn.calls]) == ("old", "hm", ["a"])
    made = message_of(Turn(Role.ASSISTANT, "new", "hm", turn.calls), original)
    assert made.content == [thought, {"type": "text", "text": "new"}, used]
    assert made.id == "m1"
    (call,) = turn.calls
    other = message_of(replace(turn, calls=(replace(call, arguments='{"step": "masked"}'),)), original)
    assert other.tool_calls == [{**original.tool_calls[0], "args": {"step": "masked"}}]
    assert other.content[2] == {**used, "input": {"step": "masked"}}
    bare = message_of(Turn(Role.ASSISTANT, "new"), original)
    assert bare.content == [{"type": "text", "text": "new"}]
    assert bare.tool_calls == []


def test_a_result_keeps_its_call_and_its_status():
    original = ToolMessage("long", tool_call_id="a", status="error", artifact={"kept": True})
    turn = turns_of([original])[0]
    assert (turn.call_id, turn.is_error) == ("a", True)
    made = message_of(Turn(Role.TOOL, "short", call_id="a", is_error=True), original)
    assert (made.content, made.tool_call_id, made.status, made.artifact) == ("short", "a", "error", {"kept": True})


@pytest.mark.parametrize(
    ("role", "kind"), [(Role.USER, HumanMessage), (Role.SYSTEM, SystemMessage), (Role.ASSISTANT, AIMessage)]
)
def test_new_turns_become_messages_of_their_role(role, kind):
    assert message_of(Turn(role, "x"), None) == kind("x")


def test_calls_that_could_not_be_parsed_keep_their_results():
    broken = {"id": "b", "name": "run", "args": "{", "error": "no JSON", "type": "invalid_tool_call"}
    message = AIMessage("x", invalid_tool_calls=[broken])
    turn = turns_of([message])[0]
    assert [call.id for call in turn.calls] == ["b"]
    assert message_of(Turn(Role.ASSISTANT, "y", calls=turn.calls), message).invalid_tool_calls == [broken]
