"""The Responses wire as the official SDK speaks it, and what it turns down."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from live_server import live
from scripted import Reply, ScriptedHost

from conftest import build_pair
from holdfast.compaction.plan import Plan, Policy
from holdfast.errors import Busy, Failed, TooLarge
from holdfast.server.http.auth import digest
from holdfast.server.http.settings import Settings
from holdfast.server.sessions.host import HostPolicy, SessionHost
from holdfast.server.wires.response_store import Preamble, ResponseStore
from holdfast.session.trigger import Trigger
from holdfast.storage.store import Store
from holdfast.transcript.turn import Role, ToolCall, Turn
from waiting import PATIENCE, until

CALL = ToolCall("call_1", "bash", '{"command":"ls"}')
OTHER = ToolCall("call_2", "bash", "{}")
PARAMETERS: Any = {"type": "object", "properties": {"command": {"type": "string"}}}
TOOL: Any = {"type": "function", "name": "bash", "description": "Run it", "parameters": PARAMETERS, "strict": False}
HEARD = {"type": "function", "function": {"name": "bash", "description": "Run it", "parameters": PARAMETERS}}
OUTPUT: Any = {"type": "function_call_output", "call_id": "call_1", "output": "a.py"}


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
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=url + "/v1", api_key="mine", max_retries=0) as one:
        yield one


@pytest.fixture
def host(served: tuple[ScriptedHost, str]) -> ScriptedHost:
    """The host of the server as if it were new."""
    one = served[0]
    one.asks, one.held, one.replies, one.said = [], [], [Reply()], 0
    return one


def refused(reply: httpx.Response) -> tuple[int, str, str | None]:
    """Status, message and field of an error in the provider's shape."""
    assert set(reply.json()) == {"error"}
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return reply.status_code, error["message"], error["param"]


def said(turns: Any) -> list[tuple[Any, ...]]:
    return [(turn.role.value, turn.text, turn.reasoning, turn.calls, turn.call_id) for turn in turns]


def test_an_answer_comes_whole(client: openai.OpenAI, host: ScriptedHost) -> None:
    got: Any = client.responses.create(
        model="any",
        input="Say hello",
        instructions="Be brief",
        max_output_tokens=50,
        temperature=0.5,
        top_p=0.9,
        metadata={"a": "b"},
    )
    assert (got.output_text, got.status, got.model, got.object) == ("Hello world", "completed", "scripted", "response")
    assert (got.instructions, got.metadata, got.error, got.incomplete_details) == ("Be brief", {"a": "b"}, None, None)
    assert (got.usage.input_tokens, got.usage.input_tokens_details.cached_tokens) == (6, 0)
    assert (got.usage.output_tokens, got.usage.total_tokens) == (2, 8)
    assert got.holdfast["session"] == "s1"
    (heard,) = host.asks
    assert said(heard.turns) == [("system", "Be brief", "", (), ""), ("user", "Say hello", "", (), "")]
    assert (heard.key, heard.max_tokens, heard.temperature, heard.top_p) == (digest("mine"), 50, 0.5, 0.9)


@pytest.mark.parametrize("reply", [Reply(), Reply(thoughts=("Hm", "."), pieces=("Now ", "look"), calls=(CALL, OTHER))])
def test_an_answer_comes_piece_by_piece(client: openai.OpenAI, host: ScriptedHost, reply: Reply) -> None:
    host.replies = [reply]
    with client.responses.stream(model="any", input="Go", tools=[TOOL]) as stream:
        events: list[Any] = list(stream)
        got: Any = stream.get_final_response()
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == got.output_text
    whole = client.responses.create(model="any", input="Go", tools=[TOOL])
    assert [(item.type, item.status) for item in got.output] == [(item.type, item.status) for item in whole.output]
    assert got.output_text == whole.output_text == "".join(reply.pieces)


def test_the_events_of_a_stream_are_the_providers_in_its_order(client: openai.OpenAI, host: ScriptedHost) -> None:
    host.replies = [Reply(thoughts=("Hm",), pieces=("Now", " then"), calls=(CALL,))]
    events: list[Any] = list(client.responses.create(model="any", input="Go", tools=[TOOL], stream=True))
    assert [event.type.removeprefix("response.") for event in events] == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "reasoning_text.delta",
        "reasoning_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
        "completed",
    ]
    assert [event.output_index for event in events if hasattr(event, "output_index")] == [0] * 6 + [1] * 7 + [2] * 4
    done = [event.item for event in events if event.type == "response.output_item.done"]
    assert events[-1].response.output == done
    assert (done[0].content[0].text, done[1].content[0].text, done[2].arguments) == ("Hm", "Now then", CALL.arguments)
    assert events[0].response.status == "in_progress"
    assert events[0].response.output == []


@pytest.mark.parametrize("named", [False, True])
def test_a_tool_goes_out_and_its_result_comes_back_to_the_same_session(
    client: openai.OpenAI, host: ScriptedHost, named: bool
) -> None:
    host.replies = [Reply(pieces=("Let me look.",), thoughts=("Hm",), calls=(CALL,)), Reply(pieces=("Done",))]
    first: Any = client.responses.create(model="any", input="Go", tools=[TOOL])
    assert [item.type for item in first.output] == ["reasoning", "message", "function_call"]
    asked: Any = {"model": "any", "tools": [TOOL]}
    if named:
        second = client.responses.create(**asked, input=[OUTPUT], previous_response_id=first.id)
    else:
        items = [{"role": "user", "content": "Go"}, *(item.to_dict() for item in first.output), OUTPUT]
        second = client.responses.create(**asked, input=items)
    assert second.usage
    assert second.usage.input_tokens_details.cached_tokens == first.usage.input_tokens + 4
    assert said(host.asks[1].turns) == [
        ("user", "Go", "", (), ""),
        ("assistant", "Let me look.", "Hm", (CALL,), ""),
        ("tool", "a.py", "", (), "call_1"),
    ]
    assert host.asks[0].tools == host.asks[1].tools == (HEARD,)


def test_instructions_are_not_carried_over(client: openai.OpenAI, host: ScriptedHost) -> None:
    first = client.responses.create(model="any", input="a", instructions="One")
    client.responses.create(model="any", input="b", instructions="Two", previous_response_id=first.id)
    assert [turn.text for turn in host.asks[1].turns] == ["Two", "a", "Hello world", "b"]


def test_what_is_not_stored_or_is_another_keys_cannot_be_named(client: openai.OpenAI, host: ScriptedHost) -> None:
    unstored = client.responses.create(model="any", input="a", store=False)
    stored = client.responses.create(model="any", input="a")
    other = client.with_options(api_key="other")
    for one, name in ((client, unstored.id), (client, "resp_never"), (other, stored.id)):
        with pytest.raises(openai.NotFoundError) as caught:
            one.responses.create(model="any", input="b", previous_response_id=name)
        assert (caught.value.param, caught.value.code) == ("previous_response_id", "previous_response_not_found")


def test_tool_choice_none_hides_the_tools(client: openai.OpenAI, host: ScriptedHost) -> None:
    first = client.responses.create(model="any", input="a", tools=[TOOL])
    client.responses.create(model="any", input="b", tools=[TOOL], tool_choice="none", previous_response_id=first.id)
    assert [heard.tools for heard in host.asks] == [(HEARD,), ()]


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_is_cut_is_incomplete(client: openai.OpenAI, host: ScriptedHost, stream: bool) -> None:
    host.replies = [Reply(pieces=("a", "b", "c"))]
    got: Any = client.responses.create(model="any", input="Go", max_output_tokens=2, stream=stream)
    if stream:
        last = list(got)[-1]
        assert last.type == "response.incomplete"
        got = last.response
    assert (got.status, got.incomplete_details.reason, got.output_text) == ("incomplete", "max_output_tokens", "ab")
    assert got.output[0].status == "incomplete"


def test_more_tokens_than_the_server_gives_are_cut_to_its_limit(client: openai.OpenAI, host: ScriptedHost) -> None:
    client.responses.create(model="any", input="Go", max_output_tokens=10**6)
    assert host.asks[0].max_tokens == Settings().max_tokens


@pytest.mark.parametrize(("stored", "by_name"), [(True, True), (True, False), (False, False)])
def test_a_compaction_stands_for_the_history_before_it(
    client: openai.OpenAI, host: ScriptedHost, stored: bool, by_name: bool
) -> None:
    first = client.responses.create(model="any", input="Go on", tools=[TOOL], store=stored, instructions="Be brief")
    history: Any = [{"role": "user", "content": "Go on"}, *(item.to_dict() for item in first.output)]
    given: Any = {"previous_response_id": first.id} if by_name else {"input": history}
    small: Any = client.responses.compact(model="any", **given)
    assert small.object == "response.compaction"
    assert [item.type for item in small.output] == ["compaction"]
    assert small.holdfast["id"] == "s1"
    assert small.holdfast["compactions"] == 1
    before = {"role": "user", "content": "is in the compaction"}
    later: Any = [before, *(item.to_dict() for item in small.output), {"role": "user", "content": "And now?"}]
    last = client.responses.create(model="any", input=later, tools=[TOOL], instructions="Be brief")
    assert [turn.text for turn in host.asks[-1].turns] == ["Be brief", "Go on", "Hello world", "And now?"]
    assert [one.tools for one in host.asks] == [(HEARD,)] * 3
    assert last.usage
    assert last.usage.input_tokens_details.cached_tokens == 9
    assert len(host.held) == 1


def test_a_compaction_of_another_key_or_of_nobody_is_not_found(client: openai.OpenAI, host: ScriptedHost) -> None:
    small = client.responses.compact(model="any", input="Go on")
    items: Any = [item.to_dict() for item in small.output]
    with pytest.raises(openai.NotFoundError):
        client.with_options(api_key="other").responses.create(model="any", input=items)
    with pytest.raises(openai.NotFoundError):
        client.responses.create(model="any", input=[{"type": "compaction", "encrypted_content": "x"}])


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (Busy("no room"), openai.InternalServerError),
        (TooLarge("too long"), openai.BadRequestError),
        (Failed("broken"), openai.InternalServerError),
    ],
)
def test_an_error_before_the_answer_is_the_sdks_own(
    client: openai.OpenAI, host: ScriptedHost, error: Exception, kind: type[openai.APIStatusError]
) -> None:
    host.replies = [Reply(error=error)]
    for stream in (False, True):
        with pytest.raises(kind, match=str(error)):
            client.responses.create(model="any", input="Go", stream=stream)
    with pytest.raises(kind, match=str(error)):
        client.responses.compact(model="any", input="Go")


def test_an_error_within_a_stream_fails_the_response(client: openai.OpenAI, host: ScriptedHost) -> None:
    host.replies = [Reply(error=Failed("broken"), after=1)]
    last: Any = list(client.responses.create(model="any", input="Go", stream=True))[-1]
    assert (last.type, last.response.status) == ("response.failed", "failed")
    assert (last.response.error.code, last.response.error.message) == ("server_error", "broken")
    with pytest.raises(openai.NotFoundError):
        client.responses.create(model="any", input="b", previous_response_id=last.response.id)


def test_a_reader_that_leaves_ends_the_answer(http: httpx.Client, client: openai.OpenAI, host: ScriptedHost) -> None:
    go = threading.Event()
    host.replies = [Reply(pieces=("word ",) * 1000, go=go)]
    with client.responses.create(model="any", input="Go", stream=True) as stream:
        next(iter(stream))
    until(lambda: '"499"' in http.get("/metrics", headers={"x-api-key": client.api_key or ""}).text)
    go.set()
    assert host.idle.wait(PATIENCE)
    assert host.said < 3


IMAGE: Any = {"type": "input_image", "image_url": "data:image/png;base64,"}
USE: Any = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
USER: Any = {"role": "user", "content": "x"}


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"input": None}, "input is empty"),
        ({"input": []}, "input is empty"),
        ({"input": 3}, "input"),
        ({"input": [3]}, "input"),
        ({"input": [{}]}, "input[0]"),
        ({"input": [{"role": "user", "content": 3}]}, "input[0]"),
        ({"input": [{"role": "tool", "content": "x"}]}, "input[0]"),
        ({"input": [{"role": "user", "content": [{"type": []}]}]}, "input[0]"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "'item_reference'"),
        ({"input": [{"type": ["message"]}]}, "input[0]"),
        ({"input": [{**USE, "call_id": None}]}, "needs call_id"),
        ({"input": [{**USE, "name": ""}]}, "input[0]"),
        ({"input": [{**USE, "arguments": {}}]}, "needs arguments"),
        ({"input": [USER, OUTPUT]}, "input[1]"),
        ({"input": [USER, USE, USER]}, "input[1]"),
        ({"tools": [{}]}, "tools[0]"),
        ({"tools": [{"type": "namespace", "name": "n", "tools": [{}]}]}, "tools[0].tools[0]"),
        ({"tools": [{"type": "function", "name": ""}]}, "tools[0]"),
        ({"tools": [{**TOOL, "parameters": []}]}, "tools[0]"),
        ({"tool_choice": "required"}, "tool_choice 'required'"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"temperature": 3}, "temperature"),
        ({"text": {"format": {"type": "json_schema"}}}, "text"),
        ({"background": True}, "background"),
        ({"conversation": "c"}, "conversation"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"metadata": {"a": 3}}, "metadata"),
    ],
)
def test_what_cannot_be_served_is_refused_by_name(
    http: httpx.Client, host: ScriptedHost, wrong: dict[str, Any], told: str
) -> None:
    status, message, _ = refused(http.post("/v1/responses", json={"model": "any", "input": "Go", **wrong}))
    assert status == 400
    assert told in message
    assert host.asks == []


def test_a_number_beyond_any_reader_is_refused(http: httpx.Client, host: ScriptedHost) -> None:
    raw = b'{"input": "Go", "tools": [{"type": "function", "name": "f", "parameters": {"maximum": 1e999}}]}'
    reply = http.post("/v1/responses", content=raw, headers={"content-type": "application/json"})
    assert refused(reply)[::2] == (400, "tools[0]")


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/responses/compact"])
@pytest.mark.parametrize("raw", [b"{", b"\xff", b"[" * 100_000, b'"text"', b"null", b""])
def test_a_body_that_is_no_request_is_refused_in_the_providers_shape(http: httpx.Client, path: str, raw: bytes) -> None:
    assert refused(http.post(path, content=raw, headers={"content-type": "application/json"}))[0] == 400


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["type", "text", "id"]), inner),
    max_leaves=6,
)
PART = st.sampled_from([IMAGE, {"type": "input_text", "text": "t"}, {"type": "refusal", "refusal": "no"}])
CONTENT = JSON | st.lists(PART | JSON, max_size=3)
KINDS = st.sampled_from(["message", "function_call", "function_call_output", "reasoning", "compaction", "other"])
ITEM = st.fixed_dictionaries(
    {"type": KINDS},
    optional={
        "role": st.sampled_from(["user", "assistant", "developer"]),
        "content": CONTENT,
        "summary": CONTENT,
        "output": CONTENT,
        "call_id": st.sampled_from(["c", "", 3]),
        "name": JSON,
        "arguments": JSON,
        "encrypted_content": JSON,
    },
)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(items=st.lists(ITEM | JSON, max_size=4), tools=JSON, path=st.sampled_from(["", "/compact"]))
def test_any_list_of_items_is_answered_or_refused(http: httpx.Client, items: Any, tools: Any, path: str) -> None:
    reply = http.post("/v1/responses" + path, json={"input": items, "tools": tools})
    if reply.status_code != 200:
        assert refused(reply)[0] in (400, 404)


def test_the_memory_forgets_the_oldest_when_it_is_full() -> None:
    memory = ResponseStore(characters=25_000)
    turn = Turn(Role.USER, "x" * 8000)
    for name in ("a", "b", "c"):
        memory.keep("key", name, (), (turn,))
    assert memory.find("key", "a") is None
    assert memory.find("key", "c")
    memory.keep("key", "d", (turn, turn), ())
    kept = memory.find("key", "d")
    assert kept
    assert memory.find("key", "b")
    assert len(kept) == 2


def test_a_history_is_known_by_what_was_said_in_it() -> None:
    memory, around = ResponseStore(), Preamble((HEARD,), "Be brief")
    turns = (Turn(Role.USER, "a"), Turn(Role.ASSISTANT, "b", calls=(CALL,)))
    memory.note("key", turns, around)
    again = (Turn(Role.USER, "a", source=9), Turn(Role.ASSISTANT, "b", reasoning="x", calls=(CALL,)), Turn(Role.USER))
    assert memory.preamble("key", again) == around
    assert memory.preamble("other", again) == Preamble()
    assert memory.preamble("key", turns[:1]) == Preamble()


def test_a_real_session_is_compacted_and_goes_on_behind_the_compaction() -> None:
    engine = build_pair("llama").engine
    plan = Plan(latent="kvzip", ratio=4, policy=Policy(keep_recent=1))
    host = SessionHost(engine, plan, Store("memory://responses-wire"), HostPolicy(Trigger(tokens=10**9, window=None)))
    said = " ".join(f"value {n} is kept in /srv/data/{n};" for n in range(12))
    with (
        live(host) as url,
        openai.OpenAI(base_url=url + "/v1", api_key="mine", max_retries=0) as client,
    ):
        asked: Any = {"model": "any", "max_output_tokens": 4, "instructions": "Be brief"}
        first = client.responses.create(**asked, input=said)
        again = client.responses.create(**asked, input="And?", previous_response_id=first.id)
        small: Any = client.responses.compact(model="any", previous_response_id=again.id)
        assert small.holdfast["compactions"] == 1
        assert small.holdfast["slots"] < small.holdfast["tokens"]
        items: Any = [*(item.to_dict() for item in small.output), {"role": "user", "content": "What now?"}]
        last: Any = client.responses.create(**asked, input=items)
    assert last.usage.input_tokens_details.cached_tokens > again.usage.input_tokens
    assert last.holdfast["session"] == small.holdfast["id"]
    assert last.holdfast["compactions"] == 1
