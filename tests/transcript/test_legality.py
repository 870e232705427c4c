"""What a provider would refuse is named with its turn and its rule."""

from __future__ import annotations

import json
from typing import Any

import pytest
from sample_sessions import ANTHROPIC, BY_FORMAT, OPENAI, openai_call, tool_result, tool_use

from holdfast.errors import BadOption
from holdfast.transcript.legality import PROVIDERS, find_problems
from holdfast.transcript.provider_requests import to_anthropic_message, to_openai_message
from holdfast.transcript.read import parse
from holdfast.transcript.turn import Role, ToolCall, Turn

ASK = Turn(Role.USER, "Fix it")


def calls(*ids: str, name: str = "bash", arguments: str = "{}", **more: Any) -> Turn:
    return Turn(Role.ASSISTANT, calls=tuple(ToolCall(id_, name, arguments) for id_ in ids), **more)


def result(call_id: str) -> Turn:
    return Turn(Role.TOOL, "ok", call_id=call_id)


SIGNED = {"parts": {"0": {"type": "thinking", "thinking": "T", "signature": "s"}}}
BROKEN = {
    "result without call": ((ASK, result("a")), "openai", 1, "pairing"),
    "call without result": ((ASK, calls("a"), ASK), "openai", 1, "pairing"),
    "words between": ((ASK, calls("a"), ASK, result("a")), "openai", 3, "results_follow"),
    "empty": ((ASK, Turn(Role.ASSISTANT, " ")), "openai", 1, "empty"),
    "long id": ((ASK, calls("a" * 41), result("a" * 41)), "openai", 1, "id"),
    "tool name": ((ASK, calls("a", name="a b"), result("a")), "deepseek", 1, "tool_name"),
    "same id": ((ASK, calls("a"), result("a"), calls("a"), result("a")), "openai_responses", 3, "unique_id"),
    "odd id": ((ASK, calls("a.b"), result("a.b")), "anthropic", 1, "id"),
    "arguments": ((ASK, calls("a", arguments="[1]"), result("a")), "anthropic", 1, "arguments"),
    "late system": ((ASK, Turn(Role.SYSTEM, "x"), ASK), "anthropic", 1, "system_first"),
    "assistant first": ((calls("a"), result("a")), "anthropic", 0, "user_first"),
    "assistant last": ((ASK, Turn(Role.ASSISTANT, "Done.")), "anthropic", 1, "user_last"),
    "thinking dropped": ((ASK, calls("a", extra=SIGNED), result("a")), "anthropic", 1, "thinking_kept"),
    "reasoning dropped": (
        (ASK, calls("a", reasoning="T"), result("a"), calls("b"), result("b")),
        "zai",
        3,
        "reasoning_kept",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_session_is_refused_by_rule_and_turn(name: str) -> None:
    turns, provider, at, rule = BROKEN[name]
    assert [(found.turn, found.rule) for found in find_problems(turns, provider)] == [(at, rule)]


@pytest.mark.parametrize("provider", PROVIDERS)
def test_sound_session_has_no_problem(provider: str) -> None:
    turns = (Turn(Role.SYSTEM, "x"), ASK, calls("a", "b", reasoning="T", extra=SIGNED), result("b"), result("a"))
    assert find_problems(turns, provider) == ()


def test_reasoning_may_go_once_the_user_has_spoken_again() -> None:
    session = (ASK, calls("a"), result("a"), ASK, calls("b", reasoning="T"), result("b"))
    assert find_problems(session, "deepseek") == ()


def test_messages_as_they_stand_are_judged_by_their_own_rules() -> None:
    assert find_problems(OPENAI, "openai") == ()
    assert [found.rule for found in find_problems(ANTHROPIC["messages"], "anthropic")] == ["user_last"]
    twice = [{"role": "user", "content": "a"}, {"role": "user", "content": [{"type": "text", "text": ""}]}]
    assert {(found.turn, found.rule) for found in find_problems(twice, "anthropic")} >= {
        (1, "alternation"),
        (1, "empty_block"),
    }
    late = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": tool_use("c")},
        {"role": "user", "content": [{"type": "text", "text": "b"}, *tool_result("c")]},
    ]
    assert [(found.turn, found.rule) for found in find_problems(late, "anthropic")] == [(2, "results_first")]


def test_items_of_the_responses_wire_are_paired_by_call_id() -> None:
    made = {"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}"}
    answer = {"type": "function_call_output", "call_id": "a", "output": "ok"}
    ask = {"role": "user", "content": [{"type": "input_text", "text": "x"}]}
    assert (
        find_problems(
            [ask, {"type": "reasoning"}, made, {**made, "call_id": "b"}, answer, {**answer, "call_id": "b"}],
            "openai_responses",
        )
        == ()
    )
    assert [found.turn for found in find_problems([ask, answer], "openai_responses")] == [1]


def test_thinking_without_its_signature_is_refused_where_it_stands_in_a_message() -> None:
    blocks = [{"type": "thinking", "thinking": "T"}, *tool_use("c")]
    sent = [{"role": "user", "content": "a"}, {"role": "assistant", "content": blocks}]
    assert [(found.turn, found.rule) for found in find_problems(sent, "anthropic")] == [
        (1, "signature"),
        (1, "user_last"),
    ]


def test_message_that_is_none_is_a_problem_of_its_shape() -> None:
    assert [found.rule for found in find_problems([{"role": "wizard"}], "openai")] == ["shape"]


def test_unknown_provider_is_refused_with_those_there_are() -> None:
    with pytest.raises(BadOption, match="anthropic"):
        find_problems((), "acme")


def test_request_keeps_signed_thinking_for_anthropic_and_reasoning_content_for_openai() -> None:
    signed = parse(BY_FORMAT["anthropic"]).turns[2]
    assert to_anthropic_message(signed) == ANTHROPIC["messages"][1]
    assert "reasoning_content" not in to_openai_message(signed)
    assert to_openai_message(parse(json.dumps(OPENAI)).turns[2])["reasoning_content"] == "I should list."


def test_image_crosses_from_one_wire_to_the_other_in_its_place() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    parts: list[Any] = [{"type": "text", "text": "see"}, image, {"type": "text", "text": "there"}]
    (turn,) = parse(json.dumps([{"role": "user", "content": parts}])).turns
    assert to_openai_message(turn)["content"] == parts
    message = to_anthropic_message(turn)
    source = {"type": "base64", "media_type": "image/png", "data": "AAAA"}
    assert message["content"][1] == {"type": "image", "source": source}
    back = parse(json.dumps({"system": "x", "messages": [message]})).turns[1]
    assert to_openai_message(back)["content"] == parts


def test_call_whose_arguments_are_no_object_is_sent_as_one() -> None:
    turn = calls("a", arguments="ls -l")
    assert to_openai_message(turn)["tool_calls"] == [openai_call("a", "ls -l")]
    assert to_anthropic_message(turn)["content"][0]["input"] == {"arguments": "ls -l"}
