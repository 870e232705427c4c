"""Whatever goes wrong with a compaction, the upstream gets the bytes that the client sent."""

from __future__ import annotations

import gzip
import json
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import anthropic
import openai
import pytest
import zstandard
from proxied import SMALL, Reply, Seen, anthropic_history, chat_history, get, post, proxy, responses_history, upstream

from holdfast.adapters import compactor as compacting
from holdfast.errors import BadOption
from holdfast.proxy.app import create_proxy
from holdfast.proxy.options import Options
from holdfast.text.rewrite import Rewritten, TextPlan
from waiting import PATIENCE, until

LONG = 40
PACK = {"gzip": gzip.compress, "deflate": zlib.compress, "zstd": zstandard.compress}
CHAT, MESSAGES, RESPONSES = "/v1/chat/completions", "/v1/messages", "/v1/responses"
BODIES: dict[str, dict[str, Any]] = {
    CHAT: {"messages": chat_history(LONG)},
    MESSAGES: {"messages": anthropic_history(LONG)},
    RESPONSES: {"input": responses_history(LONG)},
}


def body_of(path: str) -> bytes:
    return json.dumps(BODIES[path], indent=1).encode()


def raising(*_: Any, **__: Any) -> Rewritten:
    raise RuntimeError("out of luck")


@pytest.mark.parametrize("path", BODIES)
def test_a_compactor_that_raises(path, monkeypatch):
    monkeypatch.setattr(compacting, "rewrite_again", raising)
    with upstream() as up, proxy(up) as url:
        done = post(url + path, content=body_of(path))
        status = get(f"{url}/holdfast/proxy").json()
    assert done.status_code == 200
    assert up.seen[0].body == body_of(path)
    assert up.seen[0].header("content-length") == [str(len(body_of(path)))]
    assert status["failures"] == 1


@pytest.mark.parametrize("path", BODIES)
def test_a_compactor_that_takes_too_long_stands_for_the_request_after(path, monkeypatch):
    real, release = compacting.rewrite_again, threading.Event()

    def slow(*given: Any, **options: Any) -> Rewritten:
        release.wait(PATIENCE)
        return real(*given, **options)

    monkeypatch.setattr(compacting, "rewrite_again", slow)
    with upstream() as up, proxy(up, replace(SMALL, patience=0.2)) as url:
        first = post(url + path, content=body_of(path))
        assert get(f"{url}/health").json() == {"status": "ok"}
        release.set()
        until(lambda: post(url + path, content=body_of(path)) and up.seen[-1].body != up.seen[0].body)
    assert first.status_code == 200
    assert up.seen[0].body == body_of(path)
    assert len(up.seen[-1].body) < len(body_of(path)) / 2


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe{}",
        b'{"messages": 3, "input": 3}',
        b'{"messages": [], "input": []}',
        b'{"messages": [3], "input": [3]}',
        b'{"messages": [{"role": "robot", "content": "x"}], "input": [{"role": "robot", "content": "x"}]}',
        b'{"messages": NaN, "input": NaN}',
        b"[" * 100_000,
        b'{"messages": [], "input": [], "n": ' + b"9" * 5_000 + b"}",
    ],
    ids=lambda body: body[:12].decode(errors="replace"),
)
def test_a_body_that_is_no_history(path, body):
    with upstream() as up, proxy(up) as url:
        assert post(url + path, content=body).status_code == 200
    assert up.seen[0].body == body


@pytest.mark.parametrize("extra", ["NaN", "1e400", "-Infinity"])
def test_a_number_that_json_does_not_have(extra):
    body = json.dumps(BODIES[CHAT]).encode()[:-1] + b', "top_p": ' + extra.encode() + b"}"
    with upstream() as up, proxy(up) as url:
        post(url + CHAT, content=body)
    assert up.seen[0].body == body


def test_orphaned_results():
    history = [*chat_history(LONG), {"role": "tool", "tool_call_id": "nobody", "content": "x"}]
    body = json.dumps({"messages": history}).encode()
    with upstream() as up, proxy(up) as url:
        post(url + CHAT, content=body)
    assert up.seen[0].body == body


@pytest.mark.parametrize(
    "change",
    [
        {"previous_response_id": "r1"},
        {"conversation": "c1"},
        {"input": "go on"},
        {"input": [{"type": "item_reference", "id": "i1"}, *responses_history(LONG)]},
        {"input": [{"type": "compaction", "encrypted_content": "xyz"}, *responses_history(LONG)]},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_history_that_the_provider_holds(change):
    body = json.dumps(BODIES[RESPONSES] | change).encode()
    with upstream() as up, proxy(up) as url:
        post(url + RESPONSES, content=body)
    assert up.seen[0].body == body


def test_a_compaction_of_the_provider_s_own():
    history = [{"role": "assistant", "content": [{"type": "compaction", "content": "x"}]}, *anthropic_history(LONG)]
    body = json.dumps({"messages": [{"role": "user", "content": "x"}, *history]}).encode()
    with upstream() as up, proxy(up) as url:
        post(url + MESSAGES, content=body)
    assert up.seen[0].body == body


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("status", [400, 422])
def test_a_compaction_that_the_upstream_refuses(path, status):
    def reply(seen: Seen) -> Reply:
        return Reply() if seen.body in (body_of(path), grown) else Reply(b'{"error": {"message": "no"}}', status)

    name = "input" if path == RESPONSES else "messages"
    more = {"role": "user", "content": "And now?"}
    grown = json.dumps({name: [*BODIES[path][name], more]}).encode()
    with upstream(reply) as up, proxy(up) as url:
        first = post(url + path, content=body_of(path))
        again = post(url + path, content=grown)
        refused = get(f"{url}/holdfast/proxy").json()["refused"]
    assert (first.status_code, again.status_code) == (200, 200)
    said = dict(part.split("=") for part in first.headers["x-holdfast"].split(";"))
    assert said["before"] == said["after"]
    assert [seen.body for seen in up.seen[1:]] == [body_of(path), grown]  # and from then on nothing else
    assert len(up.seen[0].body) < len(body_of(path)) / 2
    assert refused == 1


def test_a_request_that_is_wrong_in_itself_gets_the_provider_s_own_words():
    with upstream(lambda _: Reply(b'{"error": "no such model"}', 400)) as up, proxy(up) as url:
        done = post(url + CHAT, content=body_of(CHAT))
        assert get(f"{url}/holdfast/proxy").json()["refused"] == 0
    assert (done.status_code, done.content) == (400, b'{"error": "no such model"}')
    assert [seen.body == body_of(CHAT) for seen in up.seen] == [False, True]


@pytest.mark.parametrize("status", [401, 404, 429, 500, 529])
def test_other_refusals_are_passed_on_at_once(status):
    reply = Reply(b"{}", status, (("retry-after", "7"),))
    with upstream(lambda _: reply) as up, proxy(up) as url:
        done = post(url + CHAT, content=body_of(CHAT))
    assert (done.status_code, done.headers["retry-after"], len(up.seen)) == (status, "7", 1)


def test_a_body_above_the_limit_streams_through():
    body = body_of(CHAT)
    with upstream() as up, proxy(up, replace(SMALL, max_body=10_000)) as url:
        post(url + CHAT, content=body)
        post(url + CHAT, content=(body[at : at + 999] for at in range(0, len(body), 999)))
    assert [seen.body for seen in up.seen] == [body, body]


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "zstd"])
def test_a_compressed_body_is_read_and_goes_up_plain_only_where_it_changed(encoding):
    pack = PACK[encoding]
    small = pack(json.dumps({"messages": chat_history(2)}).encode())
    with upstream() as up, proxy(up) as url:
        for body in (pack(body_of(CHAT)), small):
            post(url + CHAT, content=body, headers={"content-encoding": encoding})
    assert json.loads(up.seen[0].body)["messages"][1]["content"] == chat_history(0)[1]["content"]
    assert b"[holdfast: " in up.seen[0].body
    assert [seen.header("content-encoding") for seen in up.seen] == [[], [encoding]]
    assert up.seen[1].body == small


@pytest.mark.parametrize(
    ("body", "encoding", "passed"),
    [
        (gzip.compress(b"x", mtime=0), "br", "encoding br"),
        (gzip.compress(b"x" * 200_000, mtime=0), "gzip", "size"),
        (gzip.compress(b"x" * 9_999, mtime=0)[:-9], "gzip", ""),
        (b"no gzip", "gzip", ""),
        (b"no zstd", "zstd", ""),
    ],
)
def test_a_compressed_body_that_cannot_be_read_passes_as_it_came_and_says_so(body, encoding, passed, tmp_path):
    with upstream() as up, proxy(up, replace(SMALL, max_body=100_000, log=tmp_path / "log")) as url:
        answer = post(url + CHAT, content=body, headers={"content-encoding": encoding})
    row = json.loads((tmp_path / "log").read_text())
    assert (up.seen[0].body, up.seen[0].header("content-encoding")) == (body, [encoding])
    assert answer.headers["x-holdfast"].partition("passed=")[2] == row.get("passed", "") == passed
    assert passed or row["failure"] == "DecodeError"


@pytest.mark.parametrize("path", BODIES)
def test_a_changed_body_has_its_own_length_and_a_chunked_one_too(path):
    body = body_of(path)
    with upstream() as up, proxy(up) as url:
        post(url + path, content=body)
        post(url + path, content=(body[at : at + 999] for at in range(0, len(body), 999)))
    assert up.seen[0].body == up.seen[1].body != body
    assert all(seen.header("content-length") == [str(len(seen.body))] for seen in up.seen)
    assert all(seen.header("transfer-encoding") == [] for seen in up.seen)


@pytest.mark.parametrize("path", BODIES)
def test_halves_of_characters_go_up_as_legal_json(path):
    name = "input" if path == RESPONSES else "messages"
    history = [*BODIES[path][name], {"role": "user", "content": "half \ud83d and whole \U0001f600"}]
    with upstream() as up, proxy(up) as url:
        done = post(url + path, content=json.dumps({name: history}).encode())
        assert get(f"{url}/holdfast/proxy").json()["failures"] == 0
    assert done.status_code == 200
    assert "half \ufffd and whole \U0001f600" in json.dumps(json.loads(up.seen[0].body.decode()), ensure_ascii=False)
    assert len(up.seen[0].body) < len(json.dumps({name: history}))


def test_an_upstream_that_is_not_there_is_told_in_the_client_s_own_shape():
    with upstream() as up:
        address = up.url
    with proxy(address) as url:
        with (
            openai.OpenAI(api_key="k", base_url=f"{url}/v1", max_retries=0) as client,
            pytest.raises(openai.APIStatusError) as one,
        ):
            client.models.list()
        with (
            anthropic.Anthropic(api_key="k", base_url=url, max_retries=0) as asking,
            pytest.raises(anthropic.APIStatusError) as other,
        ):
            asking.messages.create(model="m", max_tokens=1, messages=anthropic_history(1))  # type: ignore[arg-type]
    assert (one.value.status_code, other.value.status_code) == (502, 502)
    assert "cannot be reached" in one.value.body["message"]  # type: ignore[index]
    assert other.value.body["error"]["type"] == "api_error"  # type: ignore[index]


def test_an_upstream_that_stays_silent_is_not_waited_for():
    held = threading.Event()

    def reply(_: Seen) -> Reply:
        held.wait(PATIENCE)
        return Reply()

    with upstream(reply) as up, proxy(up, replace(SMALL, timeout=0.2)) as url:
        done = post(url + CHAT, content=b"{}")
        held.set()
    assert (done.status_code, done.json()["error"]["type"]) == (504, "timeout_error")


def test_requests_at_once_are_all_answered_and_compacted_the_same():
    with upstream() as up, proxy(up) as url, ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: post(url + CHAT, content=body_of(CHAT)), range(8)))
    assert {done.status_code for done in made} == {200}
    assert len({seen.body for seen in up.seen}) == 1
    assert len(up.seen[0].body) < len(body_of(CHAT)) / 2


@pytest.mark.parametrize(
    "address",
    ["", "api.example.com", "ftp://x", "http://", "http://user:key@host", "http://host/?key=1", "http://host:99999"],
)
def test_an_upstream_that_is_no_address_is_refused(address):
    with pytest.raises(BadOption, match="--upstream"):
        create_proxy(address)


@pytest.mark.parametrize(
    "options",
    [
        {"patience": 0},
        {"timeout": -1},
        {"max_body": 0},
        {"patience": float("nan")},
    ],
)
def test_options_that_make_no_sense_are_refused(options):
    with pytest.raises(BadOption):
        Options(**options)


@pytest.mark.parametrize("plan", [TextPlan("no_such_method", 10), TextPlan(budget=90_000)])
def test_a_plan_that_cannot_work_is_refused_at_the_start(plan):
    with pytest.raises(BadOption):
        create_proxy("http://127.0.0.1:1", Options(plan=plan))


def test_a_log_in_no_folder_is_refused(tmp_path):
    with pytest.raises(BadOption, match="folder"):
        Options(log=tmp_path / "no" / "log.jsonl")


def test_an_earlier_compaction_stands_where_the_next_one_fails(monkeypatch):
    with upstream() as up, proxy(up) as url:
        post(url + CHAT, content=body_of(CHAT))
        monkeypatch.setattr(compacting, "rewrite_again", raising)
        post(url + CHAT, content=json.dumps({"messages": chat_history(3 * LONG)}).encode())
        status = get(f"{url}/holdfast/proxy").json()
    first, then = (json.loads(seen.body)["messages"] for seen in up.seen)
    assert then[: len(first)] == first
    assert status["failures"] == 1
