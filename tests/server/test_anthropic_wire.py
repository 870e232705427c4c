"""The Messages wire as the official SDK speaks it, and what it turns down."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from live_server import live
from scripted import Reply, ScriptedHost

from holdfast.errors import Busy, Failed, TooLarge
from holdfast.server.http.auth import digest
from holdfast.server.http.settings import Settings
from holdfast.transcript.turn import Role, ToolCall, Turn
from waiting import PATIENCE, until

CALL = ToolCall("call_1", "bash", '{"command": "ls"}')
TOOL: Any = {
    "name": "bash",
    "description": "Run it",
    "input_schema": {"type": "object", "properties": {"command": {"type": "string"}}},
}
HELLO: Any = [{"role": "user", "content": "Say hello"}]


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[ScriptedHost, str]]:
    """One server for all tests of this file."""
    one = ScriptedHost()
    with live(one) as address:
        yield one, address


@pytest.fixture(scope="module")
def url(served: tuple[ScriptedHost, str]) -> str:
    return served[1]


@pytest.fixture(scope="module")
def http(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=PATIENCE) as one:
        yield one


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=url, api_key="mine", max_retries=0) as one:
        yield one


@pytest.fixture
def host(served: tuple[ScriptedHost, str]) -> ScriptedHost:
    """The host of the server as if it were new."""
    one = served[0]
    one.asks, one.held, one.replies, one.said = [], [], [Reply()], 0
    return one


def ask(client: anthropic.Anthropic, **fields: Any) -> Any:
    return client.messages.create(**{"model": "any", "max_tokens": 100, "messages": HELLO, **fields})


def refused(reply: httpx.Response) -> tuple[int, str, str]:
    """Status, type and message of an error in the provider's shape."""
    error = reply.json()
    assert set(error) == {"type", "error"}
    assert error["type"] == "error"
    assert set(error["error"]) == {"type", "message"}
    return reply.status_code, error["error"]["type"], error["error"]["message"]


def body(**fields: Any) -> dict[str, Any]:
    return {"model": "any", "max_tokens": 10, "messages": HELLO, **fields}


def test_an_answer_comes_whole(client: anthropic.Anthropic, host: ScriptedHost) -> None:
    got = ask(client, system="Be brief", stop_sequences=["END"], extra_body={"temperature": 0.5, "top_p": 0.9})
    assert [(block.type, block.text) for block in got.content] == [("text", "Hello world")]
    assert (got.stop_reason, got.stop_sequence, got.role, got.model) == ("end_turn", None, "assistant", "scripted")
    assert got.id.startswith("msg_")
    assert (got.usage.input_tokens, got.usage.cache_read_input_tokens, got.usage.output_tokens) == (6, 0, 2)
    assert got.holdfast["session"] == "s1"
    (heard,) = host.asks
    assert [(turn.role, turn.text) for turn in heard.turns] == [(Role.SYSTEM, "Be brief"), (Role.USER, "Say hello")]
    assert (heard.key, heard.max_tokens, heard.stop) == (digest("mine"), 100, ("END",))
    assert (heard.temperature, heard.top_p) == (0.5, 0.9)


def test_an_answer_comes_piece_by_piece(client: anthropic.Anthropic, host: ScriptedHost) -> None:
    host.replies = [Reply(thoughts=("Hm", "."))]
    with client.messages.stream(model="any", max_tokens=100, messages=HELLO) as stream:
        events = list(stream)
        got: Any = stream.get_final_message()
    assert [event.text for event in events if event.type == "text"] == ["Hello", " world"]
    assert [event.thinking for event in events if event.type == "thinking"] == ["Hm", "."]
    assert [(block.type, getattr(block, block.type)) for block in got.content] == [
        ("thinking", "Hm."),
        ("text", "Hello world"),
    ]
    assert (got.stop_reason, got.usage.input_tokens, got.usage.output_tokens) == ("end_turn", 3, 2)


def test_the_events_of_a_stream_are_the_providers_in_its_order(http: httpx.Client, host: ScriptedHost) -> None:
    host.replies = [Reply(thoughts=("Hm",), pieces=("Now",), calls=(CALL, CALL))]
    reply = http.post("/v1/messages", json=body(stream=True, tools=[TOOL]))
    assert reply.headers["content-type"].startswith("text/event-stream")
    events = [block.split("\n") for block in reply.text.strip().split("\n\n")]
    data = [json.loads(lines[1].removeprefix("data: ")) for lines in events]
    assert [lines[0] for lines in events] == [f"event: {one['type']}" for one in data]
    blocks = ["content_block_start", "content_block_delta", "content_block_stop"]
    assert [one["type"] for one in data] == [
        "message_start",
        "ping",
        *(4 * blocks),
        "message_delta",
        "message_stop",
    ]
    assert [one["index"] for one in data if "index" in one] == [n for n in range(4) for _ in blocks]
    deltas = [one["delta"]["type"] for one in data if one["type"] == "content_block_delta"]
    assert deltas == ["thinking_delta", "text_delta", "input_json_delta", "input_json_delta"]
    assert data[-2]["delta"] == {"stop_reason": "tool_use", "stop_sequence": None}
    assert data[-2]["holdfast"]["session"] == "s1"


@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_goes_out_and_its_result_comes_back_to_the_same_session(
    client: anthropic.Anthropic, host: ScriptedHost, stream: bool
) -> None:
    host.replies = [Reply(pieces=("Let me look.",), thoughts=("Hm",), calls=(CALL,)), Reply(pieces=("Done",))]
    history: list[Any] = list(HELLO)
    asked: Any = {"model": "any", "max_tokens": 100, "tools": [TOOL], "messages": history}
    if stream:
        with client.messages.stream(**asked) as events:
            got: Any = events.get_final_message()
    else:
        got = client.messages.create(**asked)
    assert got.stop_reason == "tool_use"
    assert [block.type for block in got.content] == ["thinking", "text", "tool_use"]
    assert (got.content[2].id, got.content[2].name, got.content[2].input) == ("call_1", "bash", {"command": "ls"})
    result = {"type": "tool_result", "tool_use_id": "call_1", "content": "a.py", "is_error": True}
    history += [{"role": "assistant", "content": got.content}, {"role": "user", "content": [result]}]
    last = client.messages.create(**asked)
    assert last.usage.cache_read_input_tokens == got.usage.input_tokens + 4
    first, second = host.asks
    function = {"name": "bash", "description": "Run it", "parameters": TOOL["input_schema"]}
    assert first.tools == second.tools == ({"type": "function", "function": function},)
    said, answered = second.turns[1:]
    assert (said.text, said.reasoning, said.calls) == ("Let me look.", "Hm", (CALL,))
    assert (answered.role, answered.call_id, answered.text, answered.is_error) == (Role.TOOL, "call_1", "a.py", True)


def test_a_longer_history_begins_with_the_same_turns(client: anthropic.Anthropic, host: ScriptedHost) -> None:
    history: Any = [
        {"role": "user", "content": [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}]},
        {"role": "assistant", "content": [{"type": "tool_use", "id": i, "name": "bash", "input": {}} for i in "xy"]},
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "x"},
                {"type": "tool_result", "tool_use_id": "y", "content": [{"type": "text", "text": "two"}]},
                {"type": "text", "text": "and now?"},
            ],
        },
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    ask(client, messages=history[:3])
    ask(client, messages=history)
    before, after = (request.turns for request in host.asks)
    assert len(before) == 5
    assert after[: len(before)] == before


@pytest.mark.parametrize(
    ("reply", "fields", "reason"),
    [
        (Reply(pieces=("a", "b", "c")), {"max_tokens": 2}, ("max_tokens", None)),
        (Reply(pieces=("a", "b STOP c")), {"stop_sequences": ["STOP"]}, ("stop_sequence", "STOP")),
        (Reply(pieces=(), calls=(CALL,)), {"tools": [TOOL]}, ("tool_use", None)),
    ],
)
def test_the_reason_of_the_end_is_told_in_both_ways(
    client: anthropic.Anthropic, host: ScriptedHost, reply: Reply, fields: Any, reason: tuple[str, str | None]
) -> None:
    host.replies = [reply]
    got = ask(client, **fields)
    assert (got.stop_reason, got.stop_sequence) == reason
    with client.messages.stream(**{"model": "any", "max_tokens": 100, "messages": HELLO, **fields}) as stream:
        streamed = stream.get_final_message()
    assert (streamed.stop_reason, streamed.stop_sequence) == reason
    assert [block.to_dict() for block in streamed.content] == [block.to_dict() for block in got.content]


def test_tool_choice_none_hides_the_tools(client: anthropic.Anthropic, host: ScriptedHost) -> None:
    ask(client, tools=[TOOL], tool_choice={"type": "none"})
    assert host.asks[0].tools == ()


def test_more_tokens_than_the_server_gives_are_cut_to_its_limit(
    client: anthropic.Anthropic, host: ScriptedHost
) -> None:
    ask(client, max_tokens=10_000)
    assert host.asks[0].max_tokens == Settings().max_tokens


def test_tokens_are_counted_without_an_answer(client: anthropic.Anthropic, host: ScriptedHost) -> None:
    count = client.messages.count_tokens(model="any", messages=HELLO, system="Be brief", tools=[TOOL])
    assert count.input_tokens == 6
    assert host.asks == []


def test_another_key_has_sessions_of_its_own(client: anthropic.Anthropic, host: ScriptedHost) -> None:
    for key in ("one", "two"):
        ask(client.with_options(api_key=key))
    assert len({heard.key for heard in host.asks}) == 2


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (Busy("no room"), anthropic.InternalServerError),
        (TooLarge("too long"), anthropic.RequestTooLargeError),
        (Failed("broken"), anthropic.InternalServerError),
    ],
)
def test_an_error_before_the_answer_is_the_sdks_own(
    client: anthropic.Anthropic, host: ScriptedHost, error: Exception, kind: type[anthropic.APIStatusError]
) -> None:
    host.replies = [Reply(error=error)]
    for stream in (False, True):
        with pytest.raises(kind, match=str(error)):
            ask(client, stream=stream)


def test_an_error_within_a_stream_is_an_event(client: anthropic.Anthropic, host: ScriptedHost) -> None:
    host.replies = [Reply(error=Failed("broken"), after=1)]
    heard = []
    with (
        pytest.raises(anthropic.APIStatusError, match="broken"),
        client.messages.stream(model="any", max_tokens=9, messages=HELLO) as stream,
    ):
        heard += list(stream.text_stream)
    assert host.running == 0


def test_a_reader_that_leaves_ends_the_answer(
    http: httpx.Client, client: anthropic.Anthropic, host: ScriptedHost
) -> None:
    go = threading.Event()
    host.replies = [Reply(pieces=("word ",) * 1000, go=go)]
    with client.messages.stream(model="any", max_tokens=5000, messages=HELLO) as stream:
        next(iter(stream.text_stream))
    until(lambda: '"499"' in http.get("/metrics", headers={"x-api-key": client.api_key or ""}).text)
    go.set()
    assert host.idle.wait(PATIENCE)
    assert host.said < 3


RESULT = {"type": "tool_result", "tool_use_id": "x", "content": "y"}
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": ""}}
USE = {"type": "tool_use", "id": "x", "name": "bash", "input": {}}


def user(content: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}]}


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 2**70}, "max_tokens"),
        ({"model": 3}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": ["hi"]}, "messages[0]"),
        ({"messages": [{}]}, "messages.0"),
        ({"messages": [{"role": "user"}]}, "messages.0"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0"),
        ({"messages": [*HELLO, {"role": "assistant", "content": "Hel"}]}, "not continued"),
        (user(3), "messages.0"),
        (user([{"type": ["text"]}]), "messages.0.content.0"),
        (user([{"text": "x"}]), "without a type"),
        (user([3]), "messages.0.content.0"),
        (user([RESULT]), "messages.0"),
        (
            {"messages": [{"role": "user", "content": [{**RESULT, "content": [{"type": 3}]}]}]},
            "messages.0.content.0.content.0",
        ),
        ({"messages": [{"role": "assistant", "content": [USE]}, *HELLO, *HELLO]}, "messages.0"),
        ({"system": [{"text": "x"}]}, "system.0"),
        ({"system": 3}, "system"),
        ({"tools": [{}]}, "tools.0"),
        ({"tools": [{"name": "f", "input_schema": []}]}, "tools.0"),
        ({"tool_choice": {"type": "any"}}, "tool_choice 'any'"),
        ({"tool_choice": {"type": []}}, "tool_choice"),
        ({"stop_sequences": [""]}, "stop_sequences"),
        ({"temperature": 2}, "temperature"),
        ({"top_p": -1}, "top_p"),
        ({"top_k": 5}, "top_k"),
        ({"mcp_servers": [{}]}, "mcp_servers"),
        ({"output_config": {"format": {"type": "json_schema"}}}, "output_config.format"),
    ],
)
def test_what_cannot_be_served_is_refused_by_name(
    http: httpx.Client, host: ScriptedHost, wrong: Any, told: str
) -> None:
    status, type_, message = refused(http.post("/v1/messages", json=body(**wrong)))
    assert (status, type_) == (400, "invalid_request_error")
    assert told in message
    assert host.asks == []


@pytest.mark.parametrize("raw", [b"{", b"\xff", b"[" * 100_000, b'"text"', b"null", b""])
def test_a_body_that_is_no_request_is_refused_in_the_providers_shape(http: httpx.Client, raw: bytes) -> None:
    reply = http.post("/v1/messages", content=raw, headers={"content-type": "application/json"})
    assert refused(reply)[:2] == (400, "invalid_request_error")


def test_a_wrong_method_is_refused_in_the_providers_shape(http: httpx.Client) -> None:
    assert refused(http.get("/v1/messages"))[0] == 405


def test_half_characters_are_replaced_and_answered(http: httpx.Client, host: ScriptedHost) -> None:
    raw = json.dumps(body(messages=[{"role": "user", "content": "a\ud800b"}]))
    reply = http.post("/v1/messages", content=raw, headers={"content-type": "application/json"})
    assert reply.status_code == 200
    assert host.asks[0].turns == (Turn(Role.USER, "a\ufffdb"),)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["type", "text", "id"]), inner),
    max_leaves=6,
)
BLOCK = st.sampled_from([RESULT, IMAGE, USE, {"type": "text", "text": "t"}, {"type": "thinking", "thinking": "h"}])
CONTENT = JSON | st.lists(BLOCK | JSON, max_size=3)
MESSAGE = st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "system"]), "content": CONTENT})


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(messages=st.lists(MESSAGE | JSON, max_size=4), system=CONTENT, tools=JSON)
def test_any_list_of_messages_is_answered_or_refused(
    http: httpx.Client, messages: Any, system: Any, tools: Any
) -> None:
    reply = http.post("/v1/messages", json=body(messages=messages, system=system, tools=tools))
    assert reply.status_code in (200, 400)
    assert reply.json()["type"] == ("message" if reply.status_code == 200 else "error")
