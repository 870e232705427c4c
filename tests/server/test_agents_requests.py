"""Requests as coding agents really send them: kinds of tools, media in the history, overflow, and what they look up."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from live_server import live
from scripted import Reply, ScriptedHost

from holdfast.errors import PromptTooLong
from holdfast.transcript.turn import ToolCall
from waiting import PATIENCE

WARNING = "x-holdfast-warning"
PARAMETERS: Any = {"type": "object", "properties": {"q": {"type": "string"}}}
LOOK: Any = {"type": "function", "name": "look", "parameters": PARAMETERS}
PATCH: Any = {
    "type": "custom",
    "name": "apply_patch",
    "description": "Change files.",
    "format": {"type": "grammar", "syntax": "lark", "definition": "start: patch"},
}
BOARD: Any = {"type": "namespace", "name": "mcp__board", "description": "Cards", "tools": [LOOK]}
SEARCH: Any = {"type": "web_search", "external_web_access": True}
PIXEL = "data:image/png;base64,iVBORw0KGgo="
TOO_LONG = PromptTooLong("the session ends at 9", tokens=9000, most=8192)


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[ScriptedHost, httpx.Client]]:
    host = ScriptedHost()
    with live(host) as url, httpx.Client(base_url=url, timeout=PATIENCE, headers={"x-api-key": "mine"}) as http:
        yield host, http


@pytest.fixture
def host(served: tuple[ScriptedHost, httpx.Client]) -> ScriptedHost:
    one = served[0]
    one.asks, one.held, one.replies, one.shows_tools = [], [], [Reply()], True
    return one


@pytest.fixture
def http(served: tuple[ScriptedHost, httpx.Client]) -> httpx.Client:
    return served[1]


def chat(messages: list[Any], **fields: Any) -> tuple[str, dict[str, Any]]:
    return "/v1/chat/completions", {"messages": messages, **fields}


def anthropic(messages: list[Any], **fields: Any) -> tuple[str, dict[str, Any]]:
    return "/v1/messages", {"model": "any", "max_tokens": 9, "messages": messages, **fields}


def responses(items: list[Any], **fields: Any) -> tuple[str, dict[str, Any]]:
    return "/v1/responses", {"input": items, **fields}


@pytest.mark.parametrize(
    ("request_", "kind"),
    [
        (chat([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": PIXEL}}]}]), "image"),
        (
            anthropic([{"role": "user", "content": [{"type": "image", "source": {"type": "base64", "data": "x"}}]}]),
            "image",
        ),
        (
            anthropic(
                [
                    {"role": "user", "content": "Look"},
                    {"role": "assistant", "content": [{"type": "tool_use", "id": "x", "name": "f", "input": {}}]},
                    {
                        "role": "user",
                        "content": [
                            {
                                "type": "tool_result",
                                "tool_use_id": "x",
                                "content": [{"type": "image", "source": {"type": "base64", "data": "x"}}],
                            }
                        ],
                    },
                ]
            ),
            "image",
        ),
        (responses([{"role": "user", "content": [{"type": "input_file", "filename": "a.pdf"}]}]), "file"),
    ],
)
def test_media_in_a_history_are_a_line_and_never_lock_the_session(
    http: httpx.Client, host: ScriptedHost, request_: tuple[str, dict[str, Any]], kind: str
) -> None:
    reply = http.post(request_[0], json=request_[1])
    assert reply.status_code == 200
    assert f"1 {kind}" in reply.headers[WARNING]
    assert reply.json()["holdfast"]["warnings"] == [reply.headers[WARNING]]
    assert kind in host.asks[0].turns[-1].text


@pytest.mark.parametrize(
    ("request_", "left_out"),
    [
        (responses([{"role": "user", "content": "Go"}], tools=[LOOK, SEARCH]), "web_search"),
        (
            anthropic(
                [{"role": "user", "content": "Go"}],
                tools=[{"type": "web_search_20250305", "name": "find"}, {"name": "look", "input_schema": PARAMETERS}],
            ),
            "find",
        ),
        (
            chat(
                [{"role": "user", "content": "Go"}],
                tools=[{"type": "browser"}, {"type": "function", "function": {"name": "look"}}],
            ),
            "browser",
        ),
    ],
)
def test_tools_that_the_model_cannot_use_are_left_out_by_name(
    http: httpx.Client, host: ScriptedHost, request_: tuple[str, dict[str, Any]], left_out: str
) -> None:
    reply = http.post(request_[0], json=request_[1])
    assert reply.status_code == 200
    assert f"left out: {left_out} " in reply.headers[WARNING]
    assert [tool["function"]["name"] for tool in host.asks[0].tools] == ["look"]


def test_a_name_of_a_tool_cannot_write_headers(http: httpx.Client, host: ScriptedHost) -> None:
    name = "x\r\nset-cookie: a=b"
    path, body = responses([{"role": "user", "content": "Go"}], tools=[{"type": "mcp", "name": name}])
    reply = http.post(path, json=body)
    assert "set-cookie" not in reply.headers
    assert "x??set-cookie: a=b" in reply.headers[WARNING]


def test_a_template_that_shows_no_tools_is_told(http: httpx.Client, host: ScriptedHost) -> None:
    host.shows_tools = False
    path, body = chat([{"role": "user", "content": "Go"}], tools=[{"type": "function", "function": {"name": "look"}}])
    reply = http.post(path, json=body)
    assert "look" in reply.headers[WARNING]
    assert WARNING not in http.post(path, json={"messages": body["messages"]}).headers


def test_codex_tools_are_called_and_come_back_as_their_own_kinds(http: httpx.Client, host: ScriptedHost) -> None:
    patch = "*** Begin Patch\n*** End Patch"
    other = {**LOOK, "description": "Of this machine."}
    calls = (
        ToolCall("a", "apply_patch", json.dumps({"input": patch})),
        ToolCall("b", "mcp__board__look", '{"q":"x"}'),
        ToolCall("c", "look", "{}"),
    )
    host.replies = [Reply(calls=calls), Reply()]
    path, body = responses([{"role": "user", "content": "Go"}], tools=[other, PATCH, BOARD])
    first = http.post(path, json=body).json()
    _, free, named, plain = first["output"]
    assert (free["type"], free["name"], free["input"]) == ("custom_tool_call", "apply_patch", patch)
    assert (named["type"], named["name"], named["namespace"]) == ("function_call", "look", "mcp__board")
    assert (plain["name"], "namespace" in plain) == ("look", False)
    kinds = {"custom_tool_call": "custom_tool_call_output", "function_call": "function_call_output"}
    results = [{"type": kinds[i["type"]], "call_id": i["call_id"], "output": "ok"} for i in (free, named, plain)]
    http.post(path, json={**body, "input": [*body["input"], *first["output"], *results]}).raise_for_status()
    assert host.asks[1].turns[1].calls == calls  # as the session has them, so that it goes on
    assert len(host.held) == 1


def test_the_official_client_streams_a_custom_call(host: ScriptedHost, http: httpx.Client) -> None:
    host.replies = [Reply(calls=(ToolCall("a", "apply_patch", '{"input":"text"}'),))]
    with (
        openai.OpenAI(base_url=f"{http.base_url}/v1", api_key="mine", max_retries=0) as client,
        client.responses.stream(model="any", input="Go", tools=[PATCH]) as stream,
    ):
        kinds = [event.type for event in stream]
        made: Any = stream.get_final_response()
    assert "response.custom_tool_call_input.delta" in kinds
    assert (made.output[-1].type, made.output[-1].input) == ("custom_tool_call", "text")


@pytest.mark.parametrize(
    "item",
    [
        {"type": "web_search_call", "id": "ws", "status": "completed", "action": {"type": "search", "query": "q"}},
        {"type": "image_generation_call", "id": "ig", "result": "x"},
        {"type": "tool_search_call", "call_id": None, "execution": "server", "arguments": {}},
        {"type": "something_new", "id": "n", "data": "x"},
    ],
)
def test_items_of_any_kind_are_read(http: httpx.Client, host: ScriptedHost, item: dict[str, Any]) -> None:
    path, body = responses([{"role": "user", "content": "Go"}, item, {"role": "user", "content": "And?"}])
    assert http.post(path, json=body).status_code == 200
    assert host.asks[0].turns[-1].text == "And?"


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (chat([{"role": "user", "content": "Go"}]), "maximum context length is 8192 tokens"),
        (responses([{"role": "user", "content": "Go"}]), "exceeds the context window"),
        (anthropic([{"role": "user", "content": "Go"}]), "prompt is too long: 9000 tokens > 8192 maximum"),
        (("/v1/completions", {"prompt": "Go"}), "maximum context length is 8192 tokens"),
    ],
)
def test_overflow_is_the_providers_own_error(
    http: httpx.Client, host: ScriptedHost, request_: tuple[str, dict[str, Any]], words: str
) -> None:
    host.replies = [Reply(error=TOO_LONG)]
    reply = http.post(request_[0], json=request_[1])
    error = reply.json()["error"]
    assert (reply.status_code, error["type"]) == (400, "invalid_request_error")
    assert words in error["message"]
    if "messages" not in request_[0]:
        assert error["code"] == "context_length_exceeded"


def test_overflow_of_a_streamed_response_is_its_last_event(http: httpx.Client, host: ScriptedHost) -> None:
    host.replies = [Reply(error=TOO_LONG)]
    path, body = responses([{"role": "user", "content": "Go"}], stream=True)
    events = [json.loads(line[6:]) for line in http.post(path, json=body).text.splitlines() if line[:5] == "data:"]
    assert [event["type"] for event in events] == ["response.created", "response.in_progress", "response.failed"]
    assert events[-1]["response"]["error"]["code"] == "context_length_exceeded"


def test_models_tell_their_context(http: httpx.Client, host: ScriptedHost) -> None:
    (listed,) = http.get("/v1/models").json()["data"]
    assert listed == http.get(f"/v1/models/{host.model}").json()
    sizes = {listed[name] for name in ("context_length", "max_model_len", "max_input_tokens")}
    assert (sizes, listed["type"], listed["object"]) == ({host.window}, "model", "model")


def test_a_response_is_read_again_by_its_id_and_forgotten(http: httpx.Client, host: ScriptedHost) -> None:
    path, body = responses([{"role": "user", "content": "Go"}])
    made = http.post(path, json=body).json()
    assert http.get(f"/v1/responses/{made['id']}").json() == made
    (item,) = http.get(f"/v1/responses/{made['id']}/input_items").json()["data"]
    assert (item["role"], item["content"]) == ("user", "Go")
    assert http.get(f"/v1/responses/{made['id']}", headers={"x-api-key": "other"}).status_code == 404
    assert http.delete(f"/v1/responses/{made['id']}").json()["deleted"]
    assert http.get(f"/v1/responses/{made['id']}").status_code == 404
    again = http.post(path, json={**body, "previous_response_id": made["id"]})
    assert again.json()["error"]["code"] == "previous_response_not_found"


def test_tokens_are_counted_without_an_answer(http: httpx.Client, host: ScriptedHost) -> None:
    path, body = responses([{"role": "user", "content": "Go on"}])
    assert http.post(f"{path}/input_tokens", json=body).json() == {
        "object": "response.input_tokens",
        "input_tokens": 3,
    }
    assert host.asks == []


GEMINI = "/v1beta/models/any"
DECLARED: Any = {"name": "look", "parameters": {"type": "OBJECT", "properties": {"q": {"type": "STRING"}}}}


def gemini(contents: list[Any], **fields: Any) -> dict[str, Any]:
    return {"contents": contents, "systemInstruction": {"parts": [{"text": "Be brief"}]}, **fields}


def test_geminis_wire_answers_calls_and_goes_on(http: httpx.Client, host: ScriptedHost) -> None:
    call = ToolCall("c1", "look", '{"q":"x"}')
    host.replies = [Reply(thoughts=("Hm",), calls=(call,)), Reply()]
    asked = {"role": "user", "parts": [{"text": "Go"}]}
    body = gemini([asked], tools=[{"functionDeclarations": [DECLARED]}, {"googleSearch": {}}])
    first = http.post(f"{GEMINI}:generateContent", json=body, headers={"x-goog-api-key": "mine"})
    (candidate,) = first.json()["candidates"]
    thought, text, called = candidate["content"]["parts"]
    assert (thought, text) == ({"text": "Hm", "thought": True}, {"text": "Hello world"})
    assert called["functionCall"] == {"id": "c1", "name": "look", "args": {"q": "x"}}
    assert "googleSearch" in first.headers[WARNING]
    parameters = host.asks[0].tools[0]["function"]["parameters"]
    assert (parameters["type"], parameters["properties"]["q"]["type"]) == ("object", "string")
    result = {"functionResponse": {"id": "c1", "name": "look", "response": {"output": "a.py"}}}
    more = [asked, candidate["content"], {"role": "user", "parts": [result]}]
    lines = http.post(f"{GEMINI}:streamGenerateContent", params={"alt": "sse"}, json={**body, "contents": more}).text
    chunks = [json.loads(line[6:]) for line in lines.splitlines() if line]
    assert [turn.text for turn in host.asks[1].turns] == ["Be brief", "Go", "Hello world", "a.py"]
    (again,) = host.asks[1].turns[2].calls
    assert (again.id, again.name, json.loads(again.arguments)) == ("c1", "look", {"q": "x"})
    assert "".join(p["text"] for c in chunks for p in c["candidates"][0]["content"]["parts"]) == "Hello world"
    last = chunks[-1]
    assert (last["candidates"][0]["finishReason"], last["usageMetadata"]["candidatesTokenCount"]) == ("STOP", 2)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"contents": []}, "contents"),
        (gemini([{"role": "user"}]), "no list of parts"),
        (gemini([{"parts": [{"functionResponse": {"name": "x", "id": "zz", "response": {}}}]}]), "contents[0]"),
        (gemini([{"parts": [{"text": 3}]}]), "contents"),
        (gemini([{"parts": [{"text": "x"}]}], tools=[{"functionDeclarations": [{}]}]), "needs a name"),
        (
            gemini([{"parts": [{"text": "x"}]}], toolConfig={"functionCallingConfig": {"mode": "ANY"}}),
            "no call can be forced",
        ),
    ],
)
def test_what_geminis_wire_cannot_serve_is_refused_in_its_shape(
    http: httpx.Client, host: ScriptedHost, body: dict[str, Any], told: str
) -> None:
    reply = http.post(f"{GEMINI}:generateContent", json=body)
    error = reply.json()["error"]
    assert (reply.status_code, error["code"], error["status"]) == (400, 400, "INVALID_ARGUMENT")
    assert told in error["message"]
    assert host.asks == []


def test_gemini_counts_lists_and_says_overflow(http: httpx.Client, host: ScriptedHost) -> None:
    asked = gemini([{"role": "user", "parts": [{"text": "Go on"}]}])
    for body in ({"contents": asked["contents"]}, {"generateContentRequest": asked}):
        assert http.post(f"{GEMINI}:countTokens", json=body).json()["totalTokens"] in (3, 6)
    assert http.post(f"{GEMINI}:countTokens", json={}).status_code == 400
    assert http.get("/v1beta/models").json()["models"][0]["inputTokenLimit"] == host.window
    host.replies = [Reply(error=TOO_LONG)]
    error = http.post(f"{GEMINI}:generateContent", json=asked).json()["error"]
    assert error["message"] == "The input token count (9000) exceeds the maximum number of tokens allowed (8192)."
