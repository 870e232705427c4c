"""Who is let in, how much at once, and what the server tells of itself."""

import asyncio
import hashlib
import logging
import signal
import threading

import httpx
import pytest
from fastapi.testclient import TestClient
from live_server import live
from scripted import Reply, ScriptedHost
from typer.testing import CliRunner

from child import child, is_alive
from holdfast.cli import serve
from holdfast.cli.main import app as cli
from holdfast.errors import BadOption, Busy, Conflict, Failed, Lost, Missing, TooLarge, UnsupportedModel
from holdfast.server.http import auth, errors
from holdfast.server.http.app import create_app
from holdfast.server.http.limits import RateLimiter
from holdfast.server.http.metrics import KEYS, Metrics
from holdfast.server.http.settings import Settings
from holdfast.web.request_error import RequestError
from ticker_lines import without_ticker
from waiting import PATIENCE, until

CHAT = {"messages": [{"role": "user", "content": "hi"}]}
KEY = "sk-the-secret-one"
OURS = frozenset({auth.digest(KEY), auth.digest("sk-2")})


def client(host=None, **settings):
    return TestClient(create_app(host or ScriptedHost(), Settings(**settings)), base_url="http://localhost")


def asked(client_, path="/v1/chat/completions", **options):
    return client_.post(path, **({"json": CHAT} | options))


# keys


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "192.168.1.7", "example.org"])
def test_an_address_that_others_reach_needs_keys(address):
    with pytest.raises(BadOption, match="--api-key-file"):
        Settings(address=address)
    assert Settings(address=address, keys=OURS).keys == OURS


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_an_address_of_this_machine_does_not(address):
    assert Settings(address=address).on_loopback


@pytest.mark.parametrize("name", ["body_bytes", "concurrency", "seconds", "max_tokens", "per_minute", "drain_seconds"])
def test_a_limit_that_lets_nothing_through_is_refused(name):
    with pytest.raises(BadOption, match="must be"):
        Settings(**{name: -1})


@pytest.mark.parametrize(
    "headers", [{"authorization": f"Bearer {KEY}"}, {"authorization": f"bearer  {KEY} "}, {"x-api-key": KEY}]
)
def test_a_right_key_is_let_in_and_known_by_its_digest(headers):
    host = ScriptedHost()
    assert asked(client(host, address="0.0.0.0", keys=OURS), headers=headers).status_code == 200
    assert host.asks[0].key == hashlib.sha256(KEY.encode()).hexdigest()


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer wrong"},
        {"x-api-key": ""},
        {"authorization": KEY},
        {"authorization": f"Basic {KEY}"},
    ],
)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/models", "/metrics", "/v1/messages", "/nothing"])
def test_without_a_right_key_nothing_is_told(headers, path):
    answer = client(address="0.0.0.0", keys=OURS).get(path, headers=headers)
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert "wrong" not in answer.text
    error = answer.json()["error"]
    assert error["type"] == "authentication_error"
    assert ("code" in error) == (path != "/v1/messages")


def test_either_of_two_keys_that_a_client_sends_will_do():
    headers = {"authorization": "Bearer left over", "x-api-key": KEY}
    assert asked(client(address="0.0.0.0", keys=OURS), headers=headers).status_code == 200


def test_health_and_the_page_of_the_api_need_no_key():
    one = client(address="0.0.0.0", keys=OURS)
    assert [one.get(path).status_code for path in ("/health", "/health/live", "/health/ready", "/openapi.json")] == [
        200
    ] * 4


def test_a_server_that_stops_is_alive_but_not_ready():
    one = client()
    one.app.state.stopping = True
    assert [one.get(path).status_code for path in ("/health", "/health/ready", "/health/live")] == [503, 503, 200]


def test_on_loopback_any_key_is_let_in_and_none_is_the_empty_one():
    host = ScriptedHost()
    for headers in ({}, {"x-api-key": "a"}, {"authorization": "Bearer b"}):
        assert asked(client(host), headers=headers).status_code == 200
    assert [ask.key for ask in host.asks] == ["", auth.digest("a"), auth.digest("b")]


def test_keys_come_from_a_file_and_from_the_environment(tmp_path, monkeypatch):
    file = tmp_path / "keys"
    file.write_text("# ours\n one \n\ntwo\n")
    monkeypatch.setenv("HOLDFAST_API_KEYS", "three, ,four")
    assert auth.read_keys(file) == frozenset(map(auth.digest, ("one", "two", "three", "four")))
    monkeypatch.delenv("HOLDFAST_API_KEYS")
    assert auth.read_keys(None) == frozenset()


@pytest.mark.parametrize("content", [b"", b"# only a comment\n", b"\xff\xfe"])
def test_a_file_without_keys_is_refused(tmp_path, content):
    (tmp_path / "keys").write_bytes(content)
    with pytest.raises(BadOption, match="on each line"):
        auth.read_keys(tmp_path / "keys")


def test_keys_are_nowhere_to_be_read(caplog):
    caplog.set_level(logging.DEBUG)
    one = client(ScriptedHost(Reply(error=RuntimeError("broke"))))
    answer = asked(one, headers={"authorization": f"Bearer {KEY}"})
    page = one.get("/metrics", headers={"x-api-key": KEY}).text
    assert answer.status_code == 500
    assert "broke" in caplog.text
    assert KEY not in answer.text + page + caplog.text
    assert auth.digest(KEY) not in answer.text + page + caplog.text


# names


@pytest.mark.parametrize(
    "name", ["localhost", "localhost:8000", "127.0.0.1:1", "[::1]:8000", "[::1]", "LOCALHOST", "box:1"]
)
def test_a_request_may_call_this_machine_by_its_names(name):
    assert client(names=frozenset({"box"})).get("/v1/models", headers={"host": name}).status_code == 200


@pytest.mark.parametrize("name", ["evil.example", "localhost.evil.example:8000", "", "10.0.0.1", "127.0.0.1.nip.io"])
def test_a_name_that_was_made_to_point_here_is_turned_away(name):
    answer = client().get("/v1/models", headers={"host": name})
    assert answer.status_code == 403
    assert "--allow-host" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://localhost:3000", 200),
        ("https://localhost.evil.example", 403),
        ("https://evil.example", 403),
        ("null", 403),
        ("http://[", 403),
    ],
)
def test_a_page_of_another_site_may_not_post_here(origin, status):
    assert asked(client(), headers={"origin": origin}).status_code == status


def test_beyond_loopback_any_name_will_do_with_a_key():
    one = client(address="0.0.0.0", keys=OURS)
    assert one.get("/v1/models", headers={"host": "api.example.org", "x-api-key": KEY}).status_code == 200


# limits


def test_a_body_that_is_too_long_is_refused_before_it_is_read():
    read = []

    def endless():
        for _ in range(1000):
            read.append(1)
            yield b" " * 1000

    with live(ScriptedHost(), body_bytes=10_000) as url, httpx.Client(timeout=PATIENCE) as http:
        told = http.post(
            f"{url}/v1/chat/completions", content=b" " * 10_001, headers={"content-type": "application/json"}
        )
    assert told.status_code == 413
    chunked = asyncio.run(in_process(endless(), body_bytes=10_000))
    assert chunked == 413
    assert len(read) == 11


async def in_process(body, **settings):
    """Post a body of which the server takes as much as it wants."""
    sent = []

    async def receive():
        return {"type": "http.request", "body": next(body), "more_body": True}

    async def send(message):
        sent.append(message)

    headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": headers, "query_string": b""}
    await create_app(ScriptedHost(), Settings(**settings))(scope, receive, send)
    return sent[0]["status"]


def test_a_body_that_does_not_come_is_not_waited_for():
    async def never():
        await asyncio.sleep(60)

    async def post():
        sent = []

        async def send(message):
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": "/v1/x", "headers": [(b"host", b"localhost")]}
        await create_app(ScriptedHost(), Settings(body_seconds=0.05))(scope, never, send)
        return sent[0]["status"]

    assert asyncio.run(post()) == 408


def test_more_requests_than_are_allowed_at_once_are_asked_to_come_again():
    go = threading.Event()
    host = ScriptedHost(Reply(ready=go))
    with live(host, concurrency=1) as url, httpx.Client(base_url=url, timeout=PATIENCE) as http:
        first = threading.Thread(target=asked, args=(http,))
        first.start()
        until(lambda: host.running)
        second = asked(http)
        health = [http.get(path).status_code for path in ("/health", "/health/live")]
        go.set()
        first.join()
        third = asked(http)
    assert (second.status_code, second.headers["retry-after"], second.json()["error"]["code"]) == (
        503,
        "1",
        "overloaded",
    )
    assert health == [503, 200]
    assert third.status_code == 200


def test_requests_in_a_minute_are_counted_for_each_key():
    one = client(per_minute=2)
    statuses = [asked(one, headers={"x-api-key": key}).status_code for key in "aaab"]
    refused = asked(one, headers={"x-api-key": "a"})
    assert statuses == [200, 200, 429, 200]
    assert refused.json()["error"]["type"] == "rate_limit_error"
    assert 1 <= int(refused.headers["retry-after"]) <= 30
    assert one.get("/health", headers={"x-api-key": "a"}).status_code == 200


def test_a_minute_gives_its_requests_back_one_by_one():
    rate = RateLimiter(2)
    for now in (0.0, 0.0, 30.0, 60.0):
        rate.take("a", now)
    with pytest.raises(RequestError, match="30 seconds"):
        rate.take("a", 60.0)
    for key in range(20_000):  # on loopback anyone can make up keys
        rate.take(str(key), 1000.0 + key)
    assert len(rate._buckets) <= 10_001


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_takes_too_long_is_ended(stream):
    go = threading.Event()
    host = ScriptedHost(Reply(go=go))
    with live(host, seconds=0.1) as url, httpx.Client(base_url=url, timeout=PATIENCE) as http:
        answer = asked(http, json=CHAT | {"stream": stream})
        go.set()
        assert host.idle.wait(PATIENCE)
    assert answer.status_code == (200 if stream else 504)
    assert '"code": "timeout"' in answer.text or '"code":"timeout"' in answer.text
    assert "0.1 seconds" in answer.text
    assert ("[DONE]" in answer.text) is False


# shapes


@pytest.mark.parametrize(
    ("error", "status", "openai", "anthropic"),
    [
        (TooLarge("x"), 413, "invalid_request_error", "request_too_large"),
        (Missing("x"), 404, "invalid_request_error", "not_found_error"),
        (BadOption("x"), 400, "invalid_request_error", "invalid_request_error"),
        (UnsupportedModel("x"), 400, "invalid_request_error", "invalid_request_error"),
        (Busy("x"), 503, "server_error", "overloaded_error"),
        (Conflict("x"), 409, "conflict_error", "invalid_request_error"),
        (Lost("x", []), 422, "invalid_request_error", "invalid_request_error"),
        (Failed("x"), 500, "server_error", "api_error"),
    ],
)
def test_each_error_has_its_status_and_both_shapes(error, status, openai, anthropic):
    other, one = (errors.error_response(error, path) for path in ("/v1/messages", "/v1/responses"))
    assert other.status_code == status
    assert one.status_code == (400 if isinstance(error, TooLarge) else status)
    assert errors.error_body(errors.problem_of(error), "/v1/messages/count_tokens") == {
        "type": "error",
        "error": {"type": anthropic, "message": "x"},
    }
    assert errors.error_body(errors.problem_of(error), "/v1/x")["error"]["type"] == openai


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/nothing", 404), ("PUT", "/v1/models", 405), ("GET", "/v1/messages/nothing", 404)],
)
def test_what_there_is_not_is_told_in_shape(method, path, status):
    answer = client().request(method, path)
    assert answer.status_code == status
    assert answer.json()["error"]["message"]
    assert ("type" in answer.json()) == path.startswith("/v1/messages")
    assert ("allow" in answer.headers) == (status == 405)


def test_what_is_counted():
    one = client(ScriptedHost(Reply(), Reply(error=Failed("x"))))
    asked(one), asked(one), one.get("/some/where/else")
    page = one.get("/metrics")
    assert page.headers["content-type"].startswith("text/plain")
    assert 'holdfast_requests_total{method="POST",route="/v1/chat/completions",status="200"} 1.0' in page.text
    assert 'holdfast_requests_total{method="POST",route="/v1/chat/completions",status="500"} 1.0' in page.text
    assert 'holdfast_requests_total{method="GET",route="other",status="404"} 1.0' in page.text
    assert 'holdfast_tokens_total{kind="completion"} 2.0' in page.text
    assert "holdfast_first_token_seconds_count 1.0" in page.text
    assert "holdfast_requests_under_way 1.0" in page.text  # this one
    assert "holdfast_sessions 1.0" in page.text


def test_the_metrics_of_a_key_are_of_that_key_alone():
    one = client()
    for key, requests in (("a", 3), ("b", 1)):
        for _ in range(requests):
            asked(one, headers={"x-api-key": key})
    pages = {key: one.get("/metrics", headers={"x-api-key": key} if key else {}).text for key in ("a", "b", "")}
    route = 'holdfast_requests_total{method="POST",route="/v1/chat/completions",status="200"}'
    assert [f"{route} {count}.0" in pages[key] for key, count in (("a", 3), ("b", 1))] == [True, True]
    assert route not in pages[""]
    assert 'holdfast_tokens_total{kind="completion"} 6.0' in pages["a"]
    assert 'holdfast_tokens_total{kind="completion"} 2.0' in pages["b"]
    assert ["holdfast_sessions 0.0" in pages[key] for key in ("a", "b", "")] == [False, False, True]


def test_the_metrics_of_made_up_keys_are_forgotten():
    metrics = Metrics(ScriptedHost())
    first = metrics.of("0")
    for number in range(1, KEYS + 10):
        metrics.of(str(number))
    assert metrics.of("0") is not first
    assert len(metrics._of) <= KEYS


def test_two_servers_in_a_process_count_apart():
    asked(client())
    assert 'route="/v1/chat/completions"' not in client().get("/metrics").text


# the end


def test_a_server_that_stops_finishes_its_answers_and_closes_its_host():
    go = threading.Event()
    host = ScriptedHost(Reply(go=go))
    answers = []
    with httpx.Client(timeout=PATIENCE) as http:
        with live(host) as url:
            thread = threading.Thread(target=lambda: answers.append(asked(http, f"{url}/v1/chat/completions")))
            thread.start()
            until(lambda: host.said)
            threading.Thread(target=lambda: (until(lambda: not is_alive(url)), go.set())).start()
        thread.join()
    assert answers[0].json()["choices"][0]["message"]["content"] == "Hello world"
    assert host.closed


def test_an_answer_that_never_ends_does_not_hold_the_server_that_stops():
    go = threading.Event()
    host = ScriptedHost(Reply(go=go))
    answers = []
    with httpx.Client(timeout=PATIENCE) as http:
        with live(host, drain=0) as url:
            thread = threading.Thread(target=lambda: answers.append(asked(http, f"{url}/v1/chat/completions")))
            thread.start()
            until(lambda: host.said)
        assert host.closed
        go.set()
        thread.join()
    assert answers[0].status_code == 503
    assert "stopping" in answers[0].json()["error"]["message"]
    assert host.idle.wait(PATIENCE)
    assert host.ended_early == 1


SERVED = """
from scripted import ScriptedHost, Reply
from holdfast.cli import console, main, serve
host = ScriptedHost()
console.engine = lambda *_: None
serve.create_host = lambda *_: host
try:
    main.main(["serve", "--port", "0"])
finally:
    print("closed", host.closed)
"""


def test_the_command_serves_until_it_is_told_to_stop():
    with child("-c", SERVED) as server:
        url = server.address()
        assert httpx.post(f"{url}/v1/chat/completions", json=CHAT).json()["choices"]
        status, out, err = server.end(signal.SIGTERM), server.output("stdout"), server.output()
    assert without_ticker(err).startswith("scripted on http://127.0.0.1:")
    assert f"OPENAI_BASE_URL={url}/v1" in err
    assert "Traceback" not in err
    assert (out.strip(), status) == ("closed True", 0)


def test_a_port_that_is_taken_is_told_before_the_model_is_loaded(monkeypatch):
    monkeypatch.setattr(serve, "create_host", lambda *_: pytest.fail("loaded"))
    with serve.bind("127.0.0.1", 0) as taken:
        taken.listen()
        with pytest.raises(Failed, match="--port"):
            serve.bind("127.0.0.1", taken.getsockname()[1])


def test_the_command_refuses_an_open_address_without_keys(monkeypatch):
    monkeypatch.delenv("HOLDFAST_API_KEYS", raising=False)
    done = CliRunner().invoke(cli, ["serve", "--host", "0.0.0.0"])
    assert isinstance(done.exception, BadOption)
    assert "HOLDFAST_API_KEYS" in str(done.exception)
