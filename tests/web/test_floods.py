"""One caller shuts nobody out: half-sent bodies, idle connections, event streams, and requests of any size."""

from __future__ import annotations

import json
import socket
import threading
import time
from contextlib import ExitStack

import httpx
import pytest
from both_servers import SERVERS, Served, proxying, read_all, serving
from proxied import PLAIN
from scripted import Reply, ScriptedHost

from holdfast.errors import Busy
from holdfast.server.http.json_body import LONG
from holdfast.web.limiter import ConcurrencyLimiter, share_for_one_key
from holdfast.web.request_error import RequestError
from waiting import until

CHAT = "/v1/chat/completions"
SMALL = {"messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture(params=SERVERS)
def start(request):
    return SERVERS[request.param]


def half_sent(served: Served, key: str, stack: ExitStack, length: int = 100) -> socket.socket:
    """A connection that has sent a head and half of its body."""
    raw = stack.enter_context(served.connect())
    head = f"POST {CHAT} HTTP/1.1\r\nhost: localhost\r\nx-api-key: {key}\r\ncontent-type: application/json\r\n"
    raw.sendall(f"{head}content-length: {length}\r\n\r\n".encode() + b'{"messages"')
    return raw


def follow(served: Served, key: str, stack: ExitStack) -> bytes:
    """The first bytes of an event stream that stays open."""
    raw = stack.enter_context(served.connect())
    raw.sendall(f"GET /holdfast/events HTTP/1.1\r\nhost: localhost\r\nx-api-key: {key}\r\n\r\n".encode())
    return raw.recv(4096)


def post(served: Served, key: str = "other", **options):
    return httpx.post(served.url + CHAT, headers={"x-api-key": key}, trust_env=False, **({"json": SMALL} | options))


def health(served: Served) -> list[int]:
    paths = ("/health", "/health/live", "/health/ready") if served.name == "serve" else ("/health",)
    return [httpx.get(served.url + path, trust_env=False).status_code for path in paths]


def until_refused(served: Served, key: str) -> httpx.Response:
    answers: list[httpx.Response] = []
    until(lambda: answers.append(post(served, key)) or answers[-1].status_code != 200)
    return answers[-1]


def test_half_sent_bodies_of_one_key_shut_nobody_out(start):
    with start(concurrency=8) as served, ExitStack() as stack:
        for _ in range(32):
            half_sent(served, "greedy", stack)
        refused = until_refused(served, "greedy")
        assert refused.status_code == 429
        assert "this key has 6" in refused.json()["error"]["message"]
        assert health(served) == [200] * len(health(served))
        assert post(served).status_code == 200


def test_event_streams_of_one_key_shut_nobody_out_and_take_no_places_of_answers():
    with serving(concurrency=4, event_streams=8, event_streams_per_key=6) as served, ExitStack() as stack:
        first = [follow(served, "greedy", stack) for _ in range(32)]
        assert sum(answer.startswith(b"HTTP/1.1 200") for answer in first) == 6
        assert sum(answer.startswith(b"HTTP/1.1 429") for answer in first) == 26
        assert health(served) == [200, 200, 200]
        assert [post(served, key).status_code for key in ("greedy", "other")] == [200, 200]
        assert follow(served, "other", stack).startswith(b"HTTP/1.1 200")


def test_answers_of_one_key_shut_nobody_out():
    go = threading.Event()
    host = ScriptedHost(script=lambda ask: Reply(ready=go) if ask.turns[0].text == "slow" else Reply())
    slow = {"messages": [{"role": "user", "content": "slow"}]}
    from live_server import live

    with live(host, concurrency=4) as url:
        served = Served("serve", url, lambda: len(host.asks))
        threads = [threading.Thread(target=post, args=(served, "greedy"), kwargs={"json": slow}) for _ in range(3)]
        for thread in threads:
            thread.start()
        until(lambda: host.running == 3)
        assert post(served, "greedy").status_code == 429
        assert health(served) == [200, 200, 200]
        assert post(served).status_code == 200
        go.set()
        for thread in threads:
            thread.join()


def test_a_place_is_given_back_and_one_key_never_has_all():
    limiter = ConcurrencyLimiter(4, 3, "requests")
    with ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(limiter.place("a"))
        with pytest.raises(RequestError, match="this key has 3 requests"), limiter.place("a"):
            pass
        with limiter.place("b"), pytest.raises(Busy, match="4 requests"), limiter.place("c"):
            pass
        assert limiter.taken == 3
    assert (limiter.taken, dict(limiter._by_key)) == (0, {})


@pytest.mark.parametrize(("most", "expected"), [(1, 1), (2, 1), (4, 3), (32, 24)])
def test_one_key_leaves_a_quarter_to_the_others(most, expected):
    assert share_for_one_key(most) == expected


# what does not come


def test_a_body_that_stops_is_given_up(start):
    with start(body_seconds=0.2) as served, ExitStack() as stack:
        raw = half_sent(served, "k", stack)
        answer = read_all(raw)  # which returns only when the connection is closed
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"did not arrive in 0.2 seconds" in answer


@pytest.mark.parametrize("sent", [b"", b"GET /health HT", b"GET /health HTTP/1.1\r\nhost: localhost\r\n"])
def test_a_connection_that_sends_no_whole_head_is_closed(start, sent):
    with start(idle_seconds=0.2) as served, served.connect() as raw:
        raw.sendall(sent)
        assert read_all(raw) == b""


def test_a_connection_that_stops_within_its_second_head_is_closed(start):
    with start(idle_seconds=0.5) as served, served.connect() as raw:
        raw.sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\nGET /hea")
        assert read_all(raw).count(b"HTTP/1.1 200") == 1


def test_the_rest_of_a_body_that_was_refused_is_not_waited_for():
    with serving(idle_seconds=0.3, body_bytes=1000) as served, ExitStack() as stack:
        raw = half_sent(served, "k", stack, length=10**9)
        assert read_all(raw).startswith(b"HTTP/1.1 413")


def test_an_answer_may_take_longer_than_a_head():
    go = threading.Event()
    from live_server import live

    host = ScriptedHost(Reply(ready=go))
    with live(host, idle_seconds=0.05) as url:
        served, answers = Served("serve", url, lambda: len(host.asks)), []
        thread = threading.Thread(target=lambda: answers.append(post(served)))
        thread.start()
        until(lambda: host.running)
        with served.connect() as idle:
            assert read_all(idle) == b""  # a connection that began later has been closed meanwhile
        go.set()
        thread.join()
    assert answers[0].status_code == 200


# what is too much


def many(messages: int) -> bytes:
    return json.dumps({"messages": [{"role": "user", "content": f"hello {n}"} for n in range(messages)]}).encode()


WIRES = {
    CHAT: b"messages",
    "/v1/messages": b"messages",
    "/v1/responses": b"input",
}


@pytest.mark.parametrize("path", WIRES)
@pytest.mark.parametrize("messages", [1001, 100_000])
def test_more_messages_than_are_read_are_refused_with_the_limit(path, messages):
    body = many(messages).replace(b"messages", WIRES[path], 1)
    with serving(messages=1000) as served:
        answer = httpx.post(served.url + path, content=body, headers={"content-type": "application/json"}, timeout=60)
    assert answer.status_code == 413
    assert "at most 1,000 messages" in answer.json()["error"]["message"]
    assert "--max-messages" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "body", [b'{"messages": [' + b"{}," * 200_000 + b"{}]}", b'{"x": {"y": [' + b"0," * 200_000 + b"0]}}"]
)
def test_a_long_body_is_given_up_at_the_first_item_too_many(body):
    assert len(body) > LONG
    with serving(messages=1000) as served:
        answer = httpx.post(served.url + CHAT, content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 413
    assert "at most 1,000 messages" in answer.json()["error"]["message"]


@pytest.mark.parametrize("path", WIRES)
def test_a_long_history_within_the_limit_is_answered(path):
    body = json.dumps(
        {WIRES[path].decode(): [{"role": "user", "content": "word " * 100}] * 900, "model": "m", "max_tokens": 9}
    )
    assert len(body) > LONG
    with serving(messages=1000) as served:
        answer = httpx.post(served.url + path, content=body, headers={"content-type": "application/json"}, timeout=60)
    assert answer.status_code == 200


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_is_too_long_gets_an_answer_that_its_sender_reads(chunked):
    """A client that sends first and reads later must find the refusal, not a broken connection."""
    length, piece = 64 << 20, b" " * (1 << 20)
    with serving() as served, served.connect(60) as raw:
        head = f"POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\nconnection: close\r\n"
        raw.sendall(
            (head + ("transfer-encoding: chunked" if chunked else f"content-length: {length}") + "\r\n\r\n").encode()
        )
        for _ in range(length // len(piece)):
            raw.sendall(b"%x\r\n%s\r\n" % (len(piece), piece) if chunked else piece)
        if chunked:
            raw.sendall(b"0\r\n\r\n")
        answer = read_all(raw)
    assert answer.startswith(b"HTTP/1.1 413")
    assert "longer than the 33,554,432 bytes" in json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["message"]


def loop_clock() -> int:
    """The clock of the processor time of the thread that runs the server's event loop."""
    (loop,) = (thread for thread in threading.enumerate() if thread.name == "loop")
    assert loop.ident
    return time.pthread_getcpuclockid(loop.ident)


MANY = {"serve": {"messages": 10**6}, "proxy": {"trigger": 10**9}}


@pytest.mark.parametrize("name", SERVERS)
def test_a_long_request_is_read_beside_the_event_loop(name):
    """The loop does a small share of the work; if it read the request itself, it would do most of it."""
    data = many(30_000)
    with SERVERS[name](**MANY[name]) as served:
        post(served)  # what is loaded at the first request does not count
        clock = loop_clock()
        loop, whole = time.clock_gettime(clock), time.process_time()
        answer = httpx.post(
            served.url + CHAT, content=data, headers={"content-type": "application/json"}, timeout=120, verify=PLAIN
        )
        loop, whole = time.clock_gettime(clock) - loop, time.process_time() - whole
    assert answer.status_code == 200
    assert loop < whole / 2


def test_the_proxy_reads_no_more_than_it_was_told_to():
    """What is longer goes up unread, piece by piece."""
    with proxying(max_body=10_000) as served:
        assert post(served, json={"messages": [{"role": "user", "content": "x" * 20_000}]}).status_code == 200
        assert served.reached() == 1
