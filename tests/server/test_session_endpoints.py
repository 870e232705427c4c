"""Our own endpoints: what they pass on, what they answer, and whose sessions they show."""

import json
from contextlib import ExitStack
from itertools import islice, takewhile

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from shown_sessions import Shown, ShownHost, serving, worked
from starlette.testclient import TestClient

from holdfast.server.http.app import create_app
from holdfast.server.http.auth import digest
from holdfast.server.http.settings import Settings
from holdfast.server.protocol import RawTurn, SessionDetail, SessionRow
from waiting import PATIENCE, until

MINE, YOURS = "key-of-mine", "key-of-yours"
AS_ME = {"Authorization": f"Bearer {MINE}"}


@pytest.fixture
def host():
    return ShownHost(worked("s-1", key=digest(MINE)), worked("s-2", 2, key=digest(YOURS)))


@pytest.fixture
def client(host):
    app = create_app(host, Settings(keys=frozenset(map(digest, (MINE, YOURS)))))
    with TestClient(app, base_url="http://127.0.0.1", headers=AS_ME) as made:
        yield made


@pytest.fixture(scope="module")
def empty():
    with TestClient(create_app(ShownHost()), base_url="http://127.0.0.1") as made:
        yield made


def row(answer, status=200):
    assert answer.status_code == status, answer.text
    return TypeAdapter(SessionRow).validate_python(answer.json(), strict=True)


def refused(answer, status):
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error["message"]


def test_the_list_has_the_callers_sessions_alone(client):
    rows = TypeAdapter(list[SessionRow]).validate_python(client.get("/holdfast/sessions").json(), strict=True)
    assert [made["id"] for made in rows] == ["s-1"]


def test_a_session_is_told_with_blocks_curve_events_and_evidence(client, host):
    told = client.get("/holdfast/sessions/s-1").json()
    assert TypeAdapter(SessionDetail).validate_python(told, strict=True) == host.session("s-1", digest(MINE))
    assert {block["fate"] for block in told["blocks"]} == {"verbatim", "compacted", "lost", "repaired"}
    assert told["evidence"]["gate"]["lost"][0]["text"] == "2024-03-02"


def test_blocks_can_be_had_without_their_texts_and_are_the_same_otherwise(client):
    whole, bare = (client.get("/holdfast/sessions/s-1", params={"texts": t}).json() for t in ("true", "false"))
    assert all(block["text"] for block in whole["blocks"])
    assert bare == {**whole, "blocks": [{**block, "text": ""} for block in whole["blocks"]]}


def test_compact_passes_on_what_was_given_and_nothing_else(client, host):
    before = host.sessions(digest(MINE))[0]
    assert row(client.post("/holdfast/sessions/s-1/compact"))["slots"] < before["slots"]
    row(client.post("/holdfast/sessions/s-1/compact", json={"ratio": 4, "restart": False, "latent": "informed"}))
    assert host.options == [{}, {"ratio": 4, "restart": False, "latent": "informed"}]


@pytest.mark.parametrize(
    "options",
    [
        {"ratio": 0.5},
        {"ratio": "8"},
        {"ratio": True},
        {"slots": 0},
        {"slots": 1.5},
        {"keep_recent": -1},
        {"gate": "yes"},
        {"latent": 3},
        {"latent": "x" * 1001},
        {"ration": 8},
        [],
        "8",
    ],
    ids=str,
)
def test_an_option_that_makes_no_sense_is_refused_before_the_host_is_asked(client, host, options):
    refused(client.post("/holdfast/sessions/s-1/compact", json=options), 400)
    assert host.options == []


@pytest.mark.parametrize("body", [b"{", b'{"ratio": 1e999}', b"[" * 50_000, b"\xff\xfe"])
def test_a_body_that_is_no_json_is_refused(client, host, body):
    answer = client.post("/holdfast/sessions/s-1/compact", content=body, headers={"Content-Type": "application/json"})
    refused(answer, 400)
    assert host.options == []


def test_undo_takes_back_one_compaction_and_says_when_there_is_none(client):
    for left in (1, 0):
        assert row(client.post("/holdfast/sessions/s-1/undo"))["compactions"] == left
    assert "no compaction" in refused(client.post("/holdfast/sessions/s-1/undo"), 400)


def test_expand_gives_the_raw_turn(client, host):
    told = client.get("/holdfast/sessions/s-1/turns/6").json()
    TypeAdapter(RawTurn).validate_python(told, strict=True)
    assert (told["role"], told["text"]) == ("tool", host.shown["s-1"].turns[5][1])


def test_a_lone_surrogate_in_a_session_is_told_as_it_is(client, host):
    host.shown["s-1"].say("task", "half \ud800")
    host.shown["s-1"].turns[1] = ("task", "half \ud800")
    assert client.get("/holdfast/sessions").json()[0]["title"] == "half \ud800"
    assert client.get("/holdfast/sessions/s-1/turns/2").json()["text"] == "half \ud800"


def test_pins_are_set_and_taken_away(client, host):
    row(client.put("/holdfast/sessions/s-1/pins/6"))
    assert host.shown["s-1"].pinned == {6}
    row(client.delete("/holdfast/sessions/s-1/pins/6"))
    assert host.shown["s-1"].pinned == set()


def test_a_fork_answers_with_the_new_session_and_a_discard_with_one_turn_less(client):
    assert row(client.post("/holdfast/sessions/s-1/marks", json={"mark": "fork", "turn": 4}))["turns"] == 4
    before = client.get("/holdfast/sessions/s-1").json()["turns"]
    assert row(client.post("/holdfast/sessions/s-1/marks", json={"mark": "discard"}))["turns"] == before - 1
    assert row(client.post("/holdfast/sessions/s-1/marks", json={"mark": "boundary"}))["turns"] == before - 1


@pytest.mark.parametrize(
    "body",
    [{}, {"mark": "erase"}, {"mark": "fork", "turn": 0}, {"mark": "fork", "turn": "4"}, {"mark": "fork", "x": 1}],
)
def test_a_mark_that_is_none_is_refused(client, body):
    refused(client.post("/holdfast/sessions/s-1/marks", json=body), 400)


def test_an_export_imports_as_a_session_of_the_key_that_imports_it(client, host):
    file = client.get("/holdfast/sessions/s-1/export")
    assert file.headers["content-type"] == "application/octet-stream"
    assert file.headers["content-disposition"] == 'attachment; filename="s-1.holdfast-session"'
    as_you = {"Authorization": f"Bearer {YOURS}"}
    made = row(client.post("/holdfast/sessions/import", content=file.content, headers=as_you), 201)
    assert made["turns"] == len(host.shown["s-1"].turns)
    assert made["id"] in [mine["id"] for mine in client.get("/holdfast/sessions", headers=as_you).json()]
    assert made["id"] not in [mine["id"] for mine in client.get("/holdfast/sessions").json()]


def test_a_file_name_is_harmless_whatever_the_session_is_called(client, host):
    host.shown['a"; x=\r\ny'] = Shown('a"; x=\r\ny', digest(MINE), [("task", "hi")])
    file = client.get('/holdfast/sessions/a"; x=%0D%0Ay/export')
    assert file.headers["content-disposition"] == 'attachment; filename="a---x---y.holdfast-session"'


@pytest.mark.parametrize("data", [b"", b"{}", b"\x00" * 1000])
def test_a_file_that_is_no_export_is_refused(client, data):
    assert "no exported session" in refused(client.post("/holdfast/sessions/import", content=data), 400)


def test_a_dropped_session_is_gone(client):
    answer = client.delete("/holdfast/sessions/s-1")
    assert (answer.status_code, answer.content) == (204, b"")
    refused(client.get("/holdfast/sessions/s-1"), 404)


EVERY = [
    ("GET", ""),
    ("DELETE", ""),
    ("POST", "/compact"),
    ("POST", "/undo"),
    ("GET", "/turns/1"),
    ("PUT", "/pins/1"),
    ("DELETE", "/pins/1"),
    ("POST", "/marks"),
    ("GET", "/export"),
]


@pytest.mark.parametrize(("method", "rest"), EVERY)
@pytest.mark.parametrize("session", ["nobody", "s-2"])
def test_a_session_that_is_not_there_and_one_of_another_key_look_the_same(client, host, method, rest, session):
    body = {"json": {"mark": "boundary"}} if rest == "/marks" else {}
    told = refused(client.request(method, f"/holdfast/sessions/{session}{rest}", **body), 404)
    assert told == f"there is no session '{session}'; GET /holdfast/sessions lists yours"
    assert "s-2" in host.shown


@pytest.mark.parametrize(
    ("method", "path"),
    [
        *((method, f"/holdfast/sessions/s-1{rest}") for method, rest in EVERY),
        ("GET", "/holdfast/sessions"),
        ("GET", "/holdfast/events"),
        ("POST", "/holdfast/sessions/import"),
    ],
)
def test_without_a_key_nothing_is_told(client, method, path):
    refused(client.request(method, path, headers={"Authorization": ""}), 401)


@pytest.mark.parametrize("turn", ["0", "-1", "x", "1.5", "9" * 5000])
def test_a_turn_that_is_no_number_from_1_is_refused(client, turn):
    refused(client.get(f"/holdfast/sessions/s-1/turns/{turn}"), 400)


def test_a_turn_that_the_session_does_not_have_is_missing(client):
    assert "turns 1 to 30" in refused(client.get("/holdfast/sessions/s-1/turns/31"), 404)


@given(session=st.text(st.characters(codec="utf-8", exclude_characters="."), min_size=1, max_size=300))
def test_property_no_session_name_breaks_the_server(empty, session):
    path = "/holdfast/sessions/" + "".join(f"%{byte:02X}" for byte in session.encode())
    refused(empty.get(f"{path}/turns/1"), 404)


def test_every_answer_and_every_body_is_in_the_openapi_page(client):
    paths = client.get("/openapi.json").json()["paths"]
    ours = {(method.upper(), path) for path, held in paths.items() if path.startswith("/holdfast") for method in held}
    told = {(method, f"/holdfast/sessions/{{session}}{rest.replace('1', '{turn}')}") for method, rest in EVERY}
    more = {("GET", "/holdfast/sessions"), ("POST", "/holdfast/sessions/import"), ("GET", "/holdfast/events")}
    assert ours == told | more
    detail = paths["/holdfast/sessions/{session}"]["get"]["responses"]["200"]["content"]
    assert detail["application/json"]["schema"]["$ref"].endswith("/SessionDetail")
    assert "application/octet-stream" in paths["/holdfast/sessions/import"]["post"]["requestBody"]["content"]
    for path, method in (("/holdfast/events", "get"), ("/holdfast/sessions/{session}/export", "get")):
        assert "application/json" not in paths[path][method]["responses"]["200"]["content"]
    assert "/page/{name}" not in paths


WORLD = ShownHost()
APP = create_app(WORLD, Settings(names=frozenset({"testserver"})))


@schemathesis.openapi.from_asgi("/openapi.json", APP).include(path_regex="^/holdfast/sessions").parametrize()
@settings(suppress_health_check=list(HealthCheck))
def test_every_response_is_as_the_page_of_the_api_declares(case):
    WORLD.shown = {"s-1": worked("s-1")}
    if "session" in (case.path_parameters or {}):
        case.path_parameters["session"] = "s-1"
    checks = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
    case.call_and_validate(checks=checks)


def test_events_tell_the_list_at_once_and_again_when_it_has_changed(host):
    with (
        serving(host, Settings(keys=frozenset([digest(MINE)]))) as url,
        httpx.stream("GET", f"{url}/holdfast/events", headers=AS_ME, timeout=PATIENCE) as answer,
    ):
        assert answer.headers["content-type"].startswith("text/event-stream")
        told = lists(answer)
        first = next(told)
        assert first == host.sessions(digest(MINE))
        for _ in range(50):
            host.shown["s-1"].say("user", "one more")
        between = list(takewhile(lambda rows: rows[0]["turns"] < first[0]["turns"] + 50, told))
        assert len(between) < 10  # twice a second, not one for each change
        host.drop("s-1", digest(MINE))
        assert next(told) == []


def test_nobody_looks_at_the_sessions_once_the_client_has_gone(host):
    with serving(host) as url:
        with httpx.stream("GET", f"{url}/holdfast/events", timeout=PATIENCE) as answer:
            next(lists(answer))
        until(lambda: "requests_under_way 1.0" in httpx.get(f"{url}/metrics", timeout=PATIENCE).text)  # this one
        looks = host.looks[""]
        with httpx.stream("GET", f"{url}/holdfast/events", headers=AS_ME, timeout=PATIENCE) as another:
            told = lists(another)
            next(told)
            until(lambda: host.looks[digest(MINE)] > 2)
        assert host.looks[""] == looks


def test_an_open_stream_does_not_hold_up_the_end_of_the_server(host):
    with ExitStack() as stack:
        url = stack.enter_context(serving(host))
        with httpx.stream("GET", f"{url}/holdfast/events", timeout=PATIENCE) as answer:
            told = lists(answer)
            next(told)
            stack.close()  # fails where the server does not end
            assert list(told) == []


def test_a_caller_without_a_key_is_told_that_there_are_sessions_of_keys(host):
    def told(headers, lines):
        with httpx.stream("GET", f"{url}/holdfast/events", headers=headers, timeout=PATIENCE) as answer:
            return list(islice(answer.iter_lines(), lines))  # there are no more before the next heartbeat

    with serving(host) as url:
        assert told({}, 4) == ["event: locked", "data: true", "", "data: []"]
        assert told({"x-api-key": "of nobody"} | AS_ME, 1)[0].startswith('data: [{"id":')


def lists(answer):
    """The lists of a stream, without what has a name of its own."""
    named = False
    for line in answer.iter_lines():
        if line.startswith("data: ") and not named:
            yield json.loads(line[6:])
        named = line.startswith("event: ") or (named and line != "")
