"""Calls of memory tools are answered inside: the client sees one answer, and its next request goes on where it was."""

from __future__ import annotations

import json

import httpx
import pytest
from live_server import live
from scripted import Reply, ScriptedHost

from holdfast.recall.tools import TOOL_NAMES
from holdfast.server.memory_tools import MemoryHost
from holdfast.server.protocol import AnswerEnd, AnswerStart, GenerateRequest, TextDelta, ToolCallDelta
from holdfast.transcript.turn import Role, ToolCall, Turn

SEARCH = ToolCall("call_m", "history_search", '{"query": "which port does the service listen on?"}')
BASH = ToolCall("call_b", "bash", '{"command": "ls"}')
TOOL = {"type": "function", "function": {"name": "bash", "parameters": {"type": "object"}}}
PAST = (
    Turn(Role.SYSTEM, "You are an agent."),
    Turn(Role.USER, "The service listens on port 48213."),
    Turn(Role.ASSISTANT, "Noted."),
    Turn(Role.USER, "Which port does the service listen on?"),
)
LOOKS_UP = (Reply(("Let me look. ",), calls=(SEARCH,)), Reply(("It is 48213.",)))


def memory_host(tmp_path, *replies):
    inner = ScriptedHost(*replies)
    return inner, MemoryHost(inner, tmp_path)


def ask(turns, **fields):
    return GenerateRequest(tuple(turns), (TOOL,), "mine", **fields)


def test_a_call_is_answered_from_the_history_and_not_shown(tmp_path):
    inner, host = memory_host(tmp_path, *LOOKS_UP)
    events = list(host.complete(ask(PAST)))
    assert [type(event) for event in events] == [AnswerStart, TextDelta, TextDelta, AnswerEnd]
    end = events[-1]
    assert (end.turn.text, end.turn.calls, end.reason) == ("Let me look. It is 48213.", (), "stop")
    assert end.extension["memory_calls"] == 1
    assert {tool["function"]["name"] for tool in inner.asks[0].tools} == {"bash", *TOOL_NAMES}
    result = inner.asks[1].turns[-1]
    assert (result.role, result.call_id) == (Role.TOOL, "call_m")
    assert "port 48213" in result.text


def test_usage_is_the_last_prompt_and_all_that_was_said(tmp_path):
    inner, host = memory_host(tmp_path, *LOOKS_UP)
    *_, end = host.complete(ask(PAST))
    assert end.prompt_tokens == inner.count(inner.asks[1])
    assert end.completion_tokens == 3  # two pieces and a call


def test_the_next_request_finds_the_session_with_its_lookups(tmp_path):
    inner, host = memory_host(tmp_path, *LOOKS_UP, Reply(("Done.",)))
    *_, end = host.complete(ask(PAST))
    *_, last = host.complete(ask((*PAST, end.turn, Turn(Role.USER, "Thanks."))))
    assert len(inner.held) == 1
    assert last.cached_tokens > 0
    assert [turn.call_id for turn in inner.asks[2].turns if turn.role is Role.TOOL] == ["call_m"]


def test_beside_the_clients_own_call_ours_waits_for_its_result(tmp_path):
    inner, host = memory_host(tmp_path, Reply(("Both. ",), calls=(SEARCH, BASH)), Reply(("Done.",)))
    events = list(host.complete(ask(PAST)))
    assert [event.call for event in events if isinstance(event, ToolCallDelta)] == [BASH]
    end = events[-1]
    assert (end.turn.calls, end.reason) == ((BASH,), "tool_calls")
    list(host.complete(ask((*PAST, end.turn, Turn(Role.TOOL, "a.py", call_id="call_b")))))
    behind = inner.asks[1].turns[len(PAST) :]
    assert [turn.call_id for turn in behind] == ["", "call_m", "call_b"]
    assert [call.id for call in behind[0].calls] == ["call_m", "call_b"]


def test_keys_share_no_lookups_and_no_notes(tmp_path):
    note = ToolCall("call_n", "note_write", '{"text": "the plum is purple"}')
    shown = ToolCall("call_l", "note_list", "{}")
    replies = (Reply(("a",), calls=(note,)), Reply(("b",)), Reply(("c",), calls=(shown,)), Reply(("d",)))
    inner, host = memory_host(tmp_path, *replies)
    list(host.complete(ask(PAST)))
    list(host.complete(GenerateRequest(PAST, (TOOL,), "another")))
    assert inner.asks[-1].turns[-1].text == "there are no notes yet"


def test_a_model_that_only_looks_things_up_comes_to_an_end(tmp_path):
    inner, host = memory_host(tmp_path, Reply((), calls=(SEARCH,)))
    *_, end = host.complete(ask(PAST))
    assert len(inner.asks) < 12
    assert (end.turn.calls, end.reason) == ((), "stop")


def test_a_broken_call_is_answered_in_words(tmp_path):
    inner, host = memory_host(tmp_path, Reply((), calls=(ToolCall("c", "history_read", "{"),)), Reply(("ok",)))
    list(host.complete(ask(PAST)))
    assert inner.asks[1].turns[-1].text.startswith("error: ")


def test_compact_is_asked_of_the_host_for_this_session(tmp_path):
    call = ToolCall("c", "compact", "{}")
    inner, host = memory_host(tmp_path, Reply((), calls=(call,)), Reply(("ok",)))
    list(host.complete(ask(PAST)))
    assert inner.held[0].compactions == 1
    assert "history_search" in inner.asks[1].turns[-1].text


CHAT = [{"role": turn.role.value, "content": turn.text} for turn in PAST]
BODIES = {
    "/v1/chat/completions": {"messages": CHAT, "stream_options": {"include_usage": True}, "tools": [TOOL]},
    "/v1/messages": {"messages": CHAT[1:], "system": CHAT[0]["content"], "max_tokens": 99},
    "/v1/responses": {"input": CHAT, "store": False},
}


@pytest.mark.parametrize("path", BODIES)
def test_each_wire_streams_one_answer_without_a_trace_of_the_call(tmp_path, path):
    inner, host = memory_host(tmp_path, *LOOKS_UP)
    with live(host) as url:
        body = {"model": "m", "stream": True, **BODIES[path]}
        text = httpx.post(url + path, json=body, trust_env=False, timeout=60).text
    rows = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    assert len(inner.asks) == 2
    assert "history_search" not in text
    assert "call_m" not in text
    shown = "".join(map(_delta, rows))
    assert shown == "Let me look. It is 48213."


def _delta(row):
    """Returns the text that an event of any wire adds."""
    if row.get("type") == "response.output_text.delta":
        return row["delta"]
    if row.get("type") == "content_block_delta":
        return row["delta"].get("text", "")
    choices = row.get("choices") or [{}]
    return choices[0].get("delta", {}).get("content") or ""
