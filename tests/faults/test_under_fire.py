"""Whatever is sent: an answer or a refusal in shape, never a failure; and no client holds up another."""

import json
import socket
import threading
from contextlib import ExitStack

import httpx
import pytest
import schemathesis
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from live_server import live
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from scripted import Reply, ScriptedHost

from holdfast.server.http.app import create_app
from holdfast.server.http.settings import Settings
from waiting import PATIENCE, until

CHAT = {"messages": [{"role": "user", "content": "hi"}]}
APP = create_app(ScriptedHost(), Settings(body_bytes=16 * 2**20, names=frozenset({"testserver"})))
PAGE = schemathesis.openapi.from_asgi("/openapi.json", APP)
BOUNDED = settings(suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def one():
    with TestClient(APP, base_url="http://localhost") as client:
        yield client


@PAGE.exclude(path_regex="^/(holdfast|v1/messages|v1/responses)|^/$").parametrize()
@BOUNDED
def test_every_response_is_as_the_page_of_the_api_declares(case):
    checks = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
    case.call_and_validate(checks=checks)


def refused(answer, path="/v1/chat/completions"):
    """A refusal says what is wrong, in the shape of its wire."""
    assert 400 <= answer.status_code < 500, answer.text[:300]
    body = answer.json()
    assert set(body["error"]) == ({"type", "message"} if "messages" in path else {"message", "type", "param", "code"})
    assert 0 < len(body["error"]["message"]) < 1000
    return body["error"]["message"]


# bodies

DEEP = b"[" * 100_000 + b"]" * 100_000
PATHS = ["/v1/chat/completions", "/v1/completions"]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"nonsense", b"null", b"[]", b'"x"', b"1" * 5000, b"\xff\xfe", DEEP, b'{"messages": ' + DEEP + b"}"],
)
def test_a_body_that_is_no_request_is_refused_in_shape(one, path, body):
    told = refused(one.post(path, content=body, headers={"content-type": "application/json"}))
    assert len(told) > 5


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ";;"])
def test_another_kind_of_body_is_refused_with_what_to_send(one, kind):
    headers = {"content-type": kind} if kind else {}
    assert "application/json" in refused(one.post("/v1/chat/completions", content=json.dumps(CHAT), headers=headers))


@pytest.mark.parametrize("words", ["x" * 10_000_000, "a " * 2_000_000])
def test_ten_megabytes_of_one_token_are_the_hosts_to_judge(one, words):
    assert one.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": words}]}).status_code == 200


def test_half_a_character_becomes_a_whole_one(one):
    body = b'{"messages": [{"role": "user", "content": "a\\ud83d b\\ude00", "name": "\\udfff"}], "stop": "\\ud800"}'
    assert (
        one.post("/v1/chat/completions", content=body, headers={"content-type": "application/json"}).status_code == 200
    )
    assert APP.state.host.asks[-1].turns[0].text == "a\ufffd b\ufffd"
    assert APP.state.host.asks[-1].stop == ("\ufffd",)


def test_a_number_beyond_all_bounds_within_a_tool_is_only_text_to_us(one):
    tool = {"type": "function", "function": {"name": "f", "parameters": {"minimum": 10**300, "x": float("1e308")}}}
    assert one.post("/v1/chat/completions", json=CHAT | {"tools": [tool]}).status_code == 200


@pytest.mark.parametrize(
    "field",
    [
        b'"seed": NaN',
        b'"seed": 1e999',
        b'"seed": ' + b"9" * 400,
        b'"seed": ' + b"9" * 9000,
        b'"n": "x"',
        b'"stream": 7',
        b'"stop": {}',
        b'"tools": [{"function": {}}]',
        b'"x": ' + b'{"a":' * 150 + b"1" + b"}" * 150,
    ],
)
def test_a_field_of_the_wrong_kind_is_refused_or_ignored(one, field):
    body = json.dumps(CHAT)[:-1].encode() + b", " + field + b"}"
    answer = one.post("/v1/chat/completions", content=body, headers={"content-type": "application/json"})
    if b"NaN" in field:  # null, as JavaScript writes it
        assert answer.status_code == 200
    else:
        refused(answer)


# messages

TEXT = st.text(st.characters(codec=None), max_size=20)  # lone surrogates among them
ANY = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
IDS = st.sampled_from(["c1", "c2", "", "x" * 10_000]) | TEXT
CALL = st.fixed_dictionaries(
    {"id": IDS, "type": st.just("function"), "function": st.fixed_dictionaries({"name": TEXT, "arguments": TEXT | ANY})}
)
PART = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "image_url", "refusal", "tool_use", "tool_result", "thinking", "?"])},
    optional={
        "text": TEXT | ANY,
        "refusal": TEXT,
        "thinking": ANY,
        "id": IDS,
        "name": TEXT,
        "input": ANY,
        "content": ANY,
    },
)
MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "developer", "user", "assistant", "tool", "function"]) | TEXT},
    optional={
        "content": TEXT | st.lists(PART, max_size=3) | ANY,
        "tool_calls": st.lists(CALL, max_size=3) | ANY,
        "tool_call_id": IDS,
        "function_call": ANY,
        "reasoning_content": TEXT | ANY,
        "name": ANY,
        "refusal": ANY,
    },
)


@given(
    messages=st.lists(MESSAGE | ANY, max_size=6),
    beside=st.dictionaries(st.sampled_from(["tools", "stop", "seed"]), ANY),
)
@settings(suppress_health_check=list(HealthCheck))
@example(messages=[{"role": "tool", "tool_call_id": "c1", "content": "x"}], beside={})
@example(messages=[{"role": "user", "content": "\ud800"}, {"role": "assistant", "tool_calls": []}], beside={})
def test_any_list_of_messages_is_answered_or_refused_in_shape(one, messages, beside):
    body = json.dumps({"messages": messages} | beside).encode()
    answer = one.post("/v1/chat/completions", content=body, headers={"content-type": "application/json"})
    if answer.status_code == 200:
        assert answer.json()["choices"][0]["message"]["content"] == "Hello world"
    else:
        refused(answer)


# clients


@pytest.fixture
def go():
    flag = threading.Event()
    yield flag
    flag.set()


def test_two_requests_at_once_are_both_under_way(go):
    host = ScriptedHost(Reply(go=go))
    answers = []
    with live(host) as url, httpx.Client(base_url=url, timeout=PATIENCE) as http:
        threads = [
            threading.Thread(target=lambda: answers.append(http.post("/v1/chat/completions", json=CHAT)))
            for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        until(lambda: host.said == 2)
        go.set()
        for thread in threads:
            thread.join()
    assert [answer.status_code for answer in answers] == [200, 200]
    assert host.most == 2


def test_a_slow_reader_does_not_hold_the_model():
    """The answer is longer than what the connection buffers, and nobody reads it; the host is done all the same."""
    pieces = 2000
    host = ScriptedHost(Reply(pieces=("x" * 1000,) * pieces))
    with live(host, concurrency=2, concurrency_per_key=2, send_buffer=4096) as url, ExitStack() as stack:
        reader = stack.enter_context(asking(url, stream=True))
        until(lambda: host.said == pieces)
        assert host.idle.wait(PATIENCE)
        other = stack.enter_context(httpx.Client(base_url=url, timeout=PATIENCE))
        assert other.post("/v1/completions", json={"prompt": "x", "max_tokens": 1}).status_code == 200
        read = b""
        while b"[DONE]" not in read[-200:]:
            read += reader.recv(2**20)
        assert read.count(b"x" * 1000) == pieces


def test_a_reader_that_takes_nothing_at_all_is_let_go():
    host = ScriptedHost(Reply(pieces=("x" * 1000,) * 2000))
    with live(host, stalled_seconds=0.2, send_buffer=4096) as url, asking(url, stream=True):
        until(lambda: counted(url, 499))
        assert host.idle.wait(PATIENCE)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_hangs_up_ends_its_answer(go, stream):
    host = ScriptedHost(Reply(pieces=("a", "b", "c"), go=go))
    with live(host) as url:
        with asking(url, stream=stream) as client:
            until(lambda: host.said)
            if stream:
                until(lambda: b'"a"' in client.recv(4096))
        until(lambda: counted(url, 499))
        go.set()
        assert host.idle.wait(PATIENCE)
    assert (host.ended_early, host.said) == (1, 1)


def test_a_client_that_hangs_up_within_its_body_is_forgotten():
    host = ScriptedHost()
    with live(host) as url:
        with asking(url, short=True):
            pass
        until(lambda: counted(url, 499))
    assert not host.asks


def asking(url, *, short=False, **options):
    """A bare connection that has asked, and reads only what is read from it."""
    body = json.dumps(CHAT | options).encode()
    where = url.removeprefix("http://").split(":")
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect((where[0], int(where[1])))
    client.settimeout(PATIENCE)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
    head += "Content-Type: application/json\r\n\r\n"
    client.sendall(head.encode() + (body[:5] if short else body))
    return client


def counted(url, status):
    return f'status="{status}"' in httpx.get(f"{url}/metrics", timeout=PATIENCE).text
