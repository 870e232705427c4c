"""Behind the proxy, memory calls are answered on every wire, streamed or whole, and official clients see one answer."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import anthropic
import httpx
import httpx2
import openai
import pytest
from memory_upstream import Says, reply
from proxied import PLAIN, SMALL, post, proxy, upstream

from holdfast.recall.tools import TOOL_NAMES
from waiting import PATIENCE

HTTP = httpx.Client(verify=PLAIN, trust_env=False, timeout=PATIENCE)
HTTP2 = httpx2.Client(verify=PLAIN, trust_env=False, timeout=PATIENCE)
OPTIONS = replace(SMALL, memory_tools=True, trigger=100_000, plan=None)
SEARCH = ("call_m", "history_search", '{"query": "which port does the service listen on?"}')
BASH = ("call_b", "bash", '{"command": "ls"}')
LOOKS_UP = (Says("Let me look. ", (SEARCH,), 100, 10), Says("It is 48213.", (), 150, 5))
BOTH = (Says("Both. ", (SEARCH, BASH), 100, 10), Says("Done.", (), 170, 5))
PAST = ("The service listens on port 48213.", "Noted.", "Which port does the service listen on?")


@dataclass
class Seen:
    """One answer as an official client read it."""

    text: str
    calls: list[tuple[str, str]]
    reason: str | None
    prompt: int
    answer: int
    items: list[Any]
    """What the client sends back of it."""


@contextmanager
def behind_proxy(*says, **options):
    """Yields the upstream and the proxy's address; the upstream says one answer after another, the last again."""
    left = list(says)
    with (
        upstream(lambda seen: reply(seen, left.pop(0) if len(left) > 1 else left[0])) as up,
        proxy(up, replace(OPTIONS, **options)) as running,
    ):
        yield up, running


def bodies(up):
    return [json.loads(seen.body) for seen in up.seen]


def chat(url, turns, stream):
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="mine", max_retries=0, http_client=HTTP)
    function = {"name": "bash", "parameters": {"type": "object"}}
    asked = {"model": "m", "messages": turns, "tools": [{"type": "function", "function": function}]}
    if stream:
        with client.chat.completions.stream(**asked, stream_options={"include_usage": True}) as events:
            whole = events.get_final_completion()
    else:
        whole = client.chat.completions.create(**asked)
    message = whole.choices[0].message
    calls = [(call.id, call.function.name) for call in message.tool_calls or ()]
    back = {"role": "assistant", "content": message.content}
    back |= (
        {"tool_calls": [call.model_dump(include={"id", "type", "function"}) for call in message.tool_calls]}
        if calls
        else {}
    )
    usage = whole.usage
    return Seen(
        message.content, calls, whole.choices[0].finish_reason, usage.prompt_tokens, usage.completion_tokens, [back]
    )


def messages(url, turns, stream):
    client = anthropic.Anthropic(base_url=url, api_key="mine", max_retries=0, http_client=HTTP2)
    tool = {"name": "bash", "input_schema": {"type": "object"}}
    asked = {"model": "m", "messages": turns, "tools": [tool], "max_tokens": 99}
    if stream:
        with client.messages.stream(**asked) as events:
            whole = events.get_final_message()
    else:
        whole = client.messages.create(**asked)
    text = "".join(block.text for block in whole.content if block.type == "text")
    calls = [(block.id, block.name) for block in whole.content if block.type == "tool_use"]
    keep = {"type", "text", "id", "name", "input"}
    back = {"role": "assistant", "content": [block.model_dump(include=keep) for block in whole.content]}
    return Seen(text, calls, whole.stop_reason, whole.usage.input_tokens, whole.usage.output_tokens, [back])


def responses(url, turns, stream):
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="mine", max_retries=0, http_client=HTTP)
    tool = {"type": "function", "name": "bash", "parameters": {"type": "object"}, "strict": False}
    asked = {"model": "m", "input": turns, "tools": [tool], "store": False}
    if stream:
        with client.responses.stream(**asked) as events:
            whole = events.get_final_response()
    else:
        whole = client.responses.create(**asked)
    calls = [(item.call_id, item.name) for item in whole.output if item.type == "function_call"]
    back = [item.to_dict() for item in whole.output]
    usage = whole.usage
    return Seen(
        whole.output_text, calls, "tool_calls" if calls else "stop", usage.input_tokens, usage.output_tokens, back
    )


CLIENTS = {"chat": chat, "messages": messages, "responses": responses}
FIELD = {"chat": "messages", "messages": "messages", "responses": "input"}


def history():
    return [{"role": role, "content": text} for role, text in zip(("user", "assistant", "user"), PAST, strict=True)]


def result_of_bash(wire):
    if wire == "chat":
        return {"role": "tool", "tool_call_id": "call_b", "content": "a.py"}
    if wire == "messages":
        return {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "call_b", "content": "a.py"}]}
    return {"type": "function_call_output", "call_id": "call_b", "output": "a.py"}


def kinds(body, wire):
    """Returns the ids of calls and results in a request, in order."""
    found = []
    for item in body[FIELD[wire]]:
        content = item.get("content")
        blocks = content if isinstance(content, list) and wire == "messages" else [item]
        for block in blocks:
            found += [f"call {call['id']}" for call in block.get("tool_calls") or ()]
            found += [f"call {block['id']}"] if block.get("type") == "tool_use" else []
            found += [f"call {block['call_id']}"] if block.get("type") == "function_call" else []
            found += [f"result {block['tool_use_id']}"] if block.get("type") == "tool_result" else []
            found += [f"result {block['tool_call_id']}"] if block.get("role") == "tool" else []
            found += [f"result {block['call_id']}"] if block.get("type") == "function_call_output" else []
    return found


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("wire", CLIENTS)
def test_a_lookup_is_answered_inside_and_the_client_sees_one_answer(wire, stream):
    with behind_proxy(*LOOKS_UP) as (up, url):
        seen = CLIENTS[wire](url, history(), stream)
    assert " ".join(seen.text.split()) == "Let me look. It is 48213."
    assert seen.calls == []
    assert seen.reason in ("stop", "end_turn")
    assert (seen.prompt, seen.answer) == (150, 15)
    first, second = bodies(up)
    names = {tool.get("name") or tool["function"]["name"] for tool in first["tools"]}
    assert names == {"bash", *TOOL_NAMES}
    assert kinds(second, wire) == ["call call_m", "result call_m"]
    assert "port 48213" in json.dumps(second[FIELD[wire]][-1])


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("wire", CLIENTS)
def test_the_next_request_holds_the_lookup_where_it_was(wire, stream):
    with behind_proxy(*LOOKS_UP, Says("Done.")) as (up, url):
        seen = CLIENTS[wire](url, history(), stream)
        CLIENTS[wire](url, [*history(), *seen.items, {"role": "user", "content": "Thanks."}], stream)
    last = bodies(up)[-1]
    assert kinds(last, wire) == ["call call_m", "result call_m"]
    assert json.dumps(last).count("It is 48213.") == 1


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("wire", CLIENTS)
def test_beside_the_clients_own_call_ours_is_answered_with_the_next_request(wire, stream):
    with behind_proxy(*BOTH) as (up, url):
        seen = CLIENTS[wire](url, history(), stream)
        assert seen.calls == [("call_b", "bash")]
        assert seen.reason in ("tool_calls", "tool_use")
        CLIENTS[wire](url, [*history(), *seen.items, result_of_bash(wire)], stream)
    last = bodies(up)[-1]
    assert sorted(kinds(last, wire)) == ["call call_b", "call call_m", "result call_b", "result call_m"]
    if wire == "messages":
        assert [item["role"] for item in last["messages"][-2:]] == ["assistant", "user"]


@pytest.mark.parametrize("wire", CLIENTS)
def test_another_key_gets_no_lookup_of_this_one(wire):
    with behind_proxy(Says("", (("c", "history_search", '{"query": "plum"}'),)), Says("ok")) as (up, url):
        theirs = {"messages": [{"role": "user", "content": "the plum of another key"}], "model": "m"}
        post(f"{url}/v1/chat/completions", json=theirs, headers={"authorization": "Bearer theirs"})
        up.seen.clear()
    with behind_proxy(Says("", (("c", "context_status", "{}"),)), Says("ok")) as (up, url):
        post(f"{url}/v1/chat/completions", json=theirs, headers={"authorization": "Bearer theirs"})
        up.seen.clear()
        CLIENTS[wire](url, history(), False)
        assert "plum" not in json.dumps(bodies(up))


def test_compact_takes_effect_with_the_next_request():
    long = [{"role": "user", "content": "Find the fault in src/pay.py."}]
    for n in range(30):
        long += [
            {"role": "assistant", "content": f"step {n}: " + "I look at it. " * 40},
            {"role": "user", "content": f"go on {n}"},
        ]
    with behind_proxy(Says("", (("c", "compact", "{}"),)), Says("ok. "), Says("then"), plan=SMALL.plan) as (up, url):
        seen = chat(url, long, True)
        chat(url, [*long, *seen.items, {"role": "user", "content": "next"}], True)
    sizes = [len(json.dumps(body["messages"])) for body in bodies(up)]
    assert sizes[2] < sizes[0] / 2


@pytest.mark.parametrize("status", [400, 422])
def test_an_upstream_that_takes_no_tools_gets_the_request_as_it_came(status):
    def answer(seen):
        tools = json.loads(seen.body).get("tools")
        made = reply(seen, Says("plain"))
        return replace(made, status=status, pieces=b"{}") if tools else made

    body = {"model": "m", "messages": history()}
    with upstream(answer) as up, proxy(up, OPTIONS) as url:
        got = post(f"{url}/v1/chat/completions", json=body)
    assert got.json()["choices"][0]["message"]["content"] == "plain"
    assert json.loads(up.seen[-1].body) == body


@pytest.mark.parametrize("wire", ["chat", "messages"])
def test_a_model_that_only_looks_things_up_comes_to_an_end(wire):
    with behind_proxy(Says("", (SEARCH,))) as (up, url):
        seen = CLIENTS[wire](url, history(), True)
    assert seen.calls == []
    assert len(up.seen) == 9


@pytest.mark.parametrize(
    "fields",
    [
        *(
            {"tool_choice": choice}
            for choice in ("none", "required", {"type": "function", "function": {"name": "bash"}})
        ),
        {"response_format": {"type": "json_object"}},
        {"messages": history()[:1]},
        {"n": 2},
    ],
)
def test_a_request_that_leaves_no_room_for_calls_is_left_alone(fields):
    body = {"model": "m", "messages": history(), **fields}
    with behind_proxy(Says("x")) as (up, url):
        post(f"{url}/v1/chat/completions", json=body)
    assert bodies(up) == [body]
