"""What passes through: answers byte for byte and as they come, headers, paths, hang-ups."""

from __future__ import annotations

import gzip
import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace

import anthropic
import httpx
import openai
import pytest
from proxied import SMALL, Reply, Seen, anthropic_history, chat_history, get, post, proxy, request, stream, upstream

from waiting import PATIENCE

EVENTS = (("content-type", "text/event-stream"),)


def openai_events() -> list[bytes]:
    def chunk(text: str) -> bytes:
        choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
        made = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
        return f"data: {json.dumps(made)}\n\n".encode()

    return [*map(chunk, ("Hé", "llo ", "there")), b"data: [DONE]\n\n"]


def anthropic_events() -> list[bytes]:
    usage = {"input_tokens": 1, "output_tokens": 1}
    head = {"id": "1", "type": "message", "role": "assistant", "model": "m", "content": [], "usage": usage}
    head |= {"stop_reason": None, "stop_sequence": None}
    delta = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hello"}}
    events = [
        {"type": "message_start", "message": head},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        delta,
        delta,
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 2}},
        {"type": "message_stop"},
    ]
    return [f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in events]


def split(pieces: list[bytes]) -> list[bytes]:
    """The same bytes, cut where no event ends."""
    whole = b"".join(pieces)
    return [whole[at : at + 37] for at in range(0, len(whole), 37)]


def test_a_stream_of_chat_completions_reaches_the_official_client():
    with upstream(lambda _: Reply(split(openai_events()), headers=EVENTS)) as up, proxy(up) as url:
        with openai.OpenAI(api_key="k", base_url=f"{url}/v1", max_retries=0) as client:
            chunks = client.chat.completions.create(model="m", messages=chat_history(40), stream=True)  # type: ignore[call-overload]
            said = "".join(chunk.choices[0].delta.content for chunk in chunks)
        raw = post(f"{url}/v1/chat/completions", json={"messages": chat_history(40)})
    assert said == "Héllo there"
    assert raw.content == b"".join(openai_events())
    assert all(len(seen.body) < len(json.dumps(chat_history(40))) / 2 for seen in up.seen)


def test_a_stream_of_messages_reaches_the_official_client():
    with upstream(lambda _: Reply(split(anthropic_events()), headers=EVENTS)) as up, proxy(up) as url:
        with (
            anthropic.Anthropic(api_key="k", base_url=url, max_retries=0) as client,
            client.messages.stream(model="m", max_tokens=9, messages=anthropic_history(40)) as events,  # type: ignore[arg-type]
        ):
            said = "".join(events.text_stream)
        raw = post(f"{url}/v1/messages", json={"messages": anthropic_history(40)})
    assert said == "HelloHello"
    assert raw.content == b"".join(anthropic_events())


def test_the_first_chunk_arrives_before_the_last_is_sent():
    arrived = threading.Event()

    def pieces() -> Iterator[bytes]:
        yield b"data: one\n\n"
        assert arrived.wait(PATIENCE), "the first chunk was held back"
        yield b"data: two\n\n"

    with upstream(lambda _: Reply(pieces(), headers=EVENTS)) as up, proxy(up) as url:
        for path in ("/v1/chat/completions", "/v1/anything"):
            arrived.clear()
            got = []
            with stream("POST", url + path, content=b"{}") as answer:
                for piece in answer.iter_raw():
                    got.append(piece)
                    arrived.set()
            assert b"".join(got) == b"data: one\n\ndata: two\n\n"


def test_a_client_that_hangs_up_ends_its_request_upstream():
    def endless() -> Iterator[bytes]:
        while not up.hung_up.wait(0.01):
            yield b"data: more\n\n"

    with upstream(lambda _: Reply(endless(), headers=EVENTS)) as up, proxy(up) as url:
        with stream("POST", f"{url}/v1/chat/completions", content=b"{}") as answer:
            next(answer.iter_raw())
        assert up.hung_up.wait(PATIENCE)
        assert get(f"{url}/health").status_code == 200


def test_a_client_that_hangs_up_in_its_own_request_asks_nothing():
    with upstream() as up, proxy(up) as url:
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as raw:
            raw.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n{")
        assert get(f"{url}/health").status_code == 200
    assert up.seen == []


def test_an_answer_that_breaks_off_breaks_off_for_the_client():
    with (
        upstream(lambda _: Reply([b"data: one\n\n"], headers=EVENTS, broken=True)) as up,
        proxy(up) as url,
        pytest.raises(httpx.RemoteProtocolError),
    ):
        post(f"{url}/v1/chat/completions", content=b"{}")


def test_a_compressed_answer_is_passed_on_as_it_is():
    body = gzip.compress(b'{"a": 1}' * 100)
    headers = (("content-encoding", "gzip"), ("content-type", "application/json"))
    with upstream(lambda _: Reply(body, headers=headers)) as up, proxy(up) as url:
        with stream("POST", f"{url}/v1/chat/completions", content=b"{}") as answer:
            raw = b"".join(answer.iter_raw())
        assert answer.headers["content-encoding"] == "gzip"
    assert raw == body


def test_headers_pass_both_ways_but_for_those_of_one_hop():
    headers = (("x-request-id", "r1"), ("set-cookie", "a=1"), ("set-cookie", "b=2"), ("connection", "x-own"))
    reply = Reply(b"{}", headers=(*headers, ("x-own", "hop"), ("keep-alive", "timeout=5"), ("server", "up")))
    sent = {"x-api-key": "sk", "anthropic-version": "1", "x-mine": "hop", "connection": "x-mine", "te": "trailers"}
    with upstream(lambda _: reply) as up, proxy(up) as url:
        done = post(f"{url}/v1/messages", content=b"{}", headers=sent | {"accept-encoding": "identity"})
        post(f"{url}/v1/messages", content=b"{}", headers=sent)
    assert done.headers.get_list("set-cookie") == ["a=1", "b=2"]
    assert (done.headers["x-request-id"], done.headers.get_list("server")) == ("r1", ["up"])
    assert not {"x-own", "keep-alive", "date"} & set(done.headers)
    seen = up.seen[0]
    assert (seen.header("x-api-key"), seen.header("anthropic-version")) == (["sk"], ["1"])
    assert seen.header("x-mine") == seen.header("te") == up.seen[1].header("cookie") == []
    assert seen.header("host") == [up.url.removeprefix("http://")]
    assert seen.header("accept-encoding") == ["identity"]


def test_nothing_is_added_to_a_bare_request():
    with upstream() as up, proxy(up) as url:
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as raw:
            raw.sendall(b"GET /v1/models?a=%20b HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
            while raw.recv(4096):
                pass
    assert (up.seen[0].path, up.seen[0].body) == ("/v1/models?a=%20b", b"")
    assert [name.lower() for name, _ in up.seen[0].headers] == ["host"]


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD"])
def test_every_method_and_path_is_passed_on(method):
    body = b"\x00raw" * 1_000 if method in ("POST", "PUT", "PATCH") else b""
    with upstream() as up, proxy(up) as url:
        done = request(method, f"{url}/v1/files/a%2Fb?x=1&x=2", content=body)
    assert done.status_code == 200
    assert done.content == (b"" if method == "HEAD" else b'{"ok": true}')
    assert (up.seen[0].method, up.seen[0].path, up.seen[0].body) == (method, "/v1/files/a%2Fb?x=1&x=2", body)


def test_counting_tokens_is_not_touched():
    body = json.dumps({"messages": anthropic_history(40)}).encode()
    with upstream() as up, proxy(up) as url:
        post(f"{url}/v1/messages/count_tokens", content=body)
    assert up.seen[0].body == body


@pytest.mark.parametrize(
    ("base", "asked", "sent"),
    [
        ("", "/v1/x", "/v1/x"),
        ("/v1", "/v1/x", "/v1/x"),
        ("/v1", "/x", "/v1/x"),
        ("/api/v1", "/v1/x", "/api/v1/x"),
        ("/api/v1/", "/api/v1/x", "/api/v1/x"),
        ("/api/v1", "/x?y=/v1/", "/api/v1/x?y=/v1/"),
        ("/v1", "/v1x", "/v1/v1x"),
    ],
)
def test_the_path_stands_behind_that_of_the_upstream(base, asked, sent):
    with upstream() as up, proxy(up, path=base) as url:
        get(url + asked)
    assert up.seen[0].path == sent


@pytest.mark.parametrize(
    ("headers", "name", "expected"),
    [
        ({}, "authorization", ["Bearer sk-env"]),
        ({"authorization": "Bearer"}, "authorization", ["Bearer sk-env"]),
        ({"anthropic-version": "1"}, "x-api-key", ["sk-env"]),
        ({"authorization": "Bearer own"}, "authorization", ["Bearer own"]),
        ({"x-api-key": "own"}, "authorization", []),
        ({"origin": "http://localhost:3000"}, "authorization", []),
        ({"sec-fetch-site": "none"}, "authorization", []),
    ],
)
def test_the_proxy_s_key_is_sent_where_the_client_has_none(headers, name, expected):
    def answer(_: Seen) -> Reply:
        return Reply()

    with upstream(answer) as up, proxy(up, replace(SMALL, key="sk-env")) as url:
        get(f"{url}/v1/models", headers=headers)
    assert up.seen[0].header(name) == expected
