"""Endpoints: what comes back is checked, every failure is told, and no call outlives its time."""

import logging

import pytest

from holdfast.engine import remote
from holdfast.engine.remote import AnthropicChat, OpenAIChat
from holdfast.errors import Failed
from stub_endpoint import Stub, serving

KEY = "sk-very-secret-0123456789"
WIRES = [OpenAIChat, AnthropicChat]


def chat_at(stub, wire, **options):
    path = "/v1" if wire is OpenAIChat else ""
    return wire("stub", stub.url + path, KEY, **options)


@pytest.mark.parametrize("wire", WIRES)
def test_an_answer_comes_with_its_tokens_and_seconds(wire):
    with serving(Stub("fine")) as stub:
        reply = chat_at(stub, wire)("be brief", "how is it?", 100, 5)
    assert (reply.text, reply.tokens_in, reply.tokens_out, reply.stopped) == ("fine", 11, 7, "stop")
    assert 0 < reply.seconds < 5
    asked = stub.requests[0]
    assert asked["max_tokens"] == 100
    assert asked["messages"][-1] == {"role": "user", "content": "how is it?"}
    assert KEY in (stub.headers[0].get("x-api-key"), stub.headers[0].get("authorization", "").removeprefix("Bearer "))


@pytest.mark.parametrize("wire", WIRES)
def test_a_cut_answer_says_so(wire):
    with serving(Stub("half of", stopped="length")) as stub:
        assert chat_at(stub, wire)("", "x", 10, 5).stopped == "length"


@pytest.mark.parametrize("wire", WIRES)
def test_the_output_limit_of_the_endpoint_holds(wire):
    with serving(Stub()) as stub:
        chat_at(stub, wire, max_output=50)("", "x", 100, 5)
    assert stub.requests[0]["max_tokens"] == 50


@pytest.mark.parametrize("status", [429, 500, 529])
@pytest.mark.parametrize("wire", WIRES)
def test_passing_trouble_is_tried_again(wire, status):
    with serving(Stub("fine", status=status, failures=2)) as stub:
        assert chat_at(stub, wire)("", "x", 10, 5).text == "fine"
    assert len(stub.requests) == 3


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 429, 500, 503, 529])
@pytest.mark.parametrize("wire", WIRES)
def test_lasting_trouble_says_what_to_do_next_and_not_the_key(wire, status):
    with serving(Stub(status=status)) as stub, pytest.raises(Failed) as told:
        chat_at(stub, wire, retries=1)("", "x", 10, 5)
    assert str(status) in str(told.value)
    assert (remote.NEXT.get(status) or remote.OVERLOADED) in str(told.value)
    assert KEY not in str(told.value)


BODIES = [b"", b"{", b"[]", b"null", b"<html>", b'{"choices": 1}', b'{"content": [{}]}', b'{"choices": [{}]}', b"\xff"]


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("wire", WIRES)
def test_an_answer_of_another_form_fails_by_name(wire, body):
    with serving(Stub(body=body)) as stub, pytest.raises(Failed, match="not of the"):
        chat_at(stub, wire)("", "x", 10, 5)


def test_no_choice_at_all_is_an_empty_answer():
    with serving(Stub(body=b'{"choices": []}')) as stub:
        assert chat_at(stub, OpenAIChat)("", "x", 10, 5).text == ""


@pytest.mark.parametrize(("wire", "reason"), [(OpenAIChat, "content_filter"), (AnthropicChat, "refusal")])
def test_a_refusal_fails(wire, reason):
    with serving(Stub("", stopped=reason)) as stub, pytest.raises(Failed, match="refused"):
        chat_at(stub, wire)("", "x", 10, 5)


@pytest.mark.parametrize("wire", WIRES)
def test_a_server_that_never_ends_its_answer_is_left_in_time(wire):
    with serving(Stub(drip=0.02)) as stub:
        chat_at(stub, wire)  # the library's own import is not the server's time
        with pytest.raises(Failed, match=r"no answer within 0\.2 s"):
            chat_at(stub, wire)("", "x", 10, 0.2)
        assert not stub.closing.is_set()


@pytest.mark.parametrize("wire", WIRES)
def test_nobody_there_fails(wire):
    with serving(Stub()) as stub:
        gone = chat_at(stub, wire, retries=0)
    with pytest.raises(Failed, match="check that the endpoint runs"):
        gone("", "x", 10, 5)


@pytest.mark.parametrize("wire", WIRES)
def test_a_missing_library_tells_how_to_install_it(wire, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, wire.sdk, None)
    with pytest.raises(Failed, match=r"holdfast\[api\]"):
        wire("stub")("", "x", 10, 5)


@pytest.mark.parametrize("wire", WIRES)
def test_the_key_is_neither_shown_nor_logged(wire, caplog):
    caplog.set_level(logging.DEBUG)
    with serving(Stub()) as stub:
        chat = chat_at(stub, wire)
        chat("", "x", 10, 5)
    assert KEY not in repr(chat) + caplog.text


@pytest.mark.parametrize("wire", WIRES)
def test_the_environment_decides_nothing(wire, monkeypatch):
    for name in ("OPENAI", "ANTHROPIC"):
        monkeypatch.setenv(f"{name}_BASE_URL", "http://127.0.0.1:9")
        monkeypatch.setenv(f"{name}_API_KEY", "sk-of-the-environment")
    monkeypatch.setenv("OPENAI_ORG_ID", "org-of-the-environment")
    with serving(Stub("fine")) as stub:
        assert chat_at(stub, wire)("", "x", 10, 5).text == "fine"
    assert "of-the-environment" not in str(stub.headers)
    assert "openai-organization" not in stub.headers[0]
