"""Nobody gets in by a name, a page, a path or two lengths: `serve` and `proxy`, byte by byte."""

from __future__ import annotations

import json

import pytest
from both_servers import SERVERS, proxying, serving

from holdfast.server.http.auth import digest
from holdfast.web.front_door import normalize_path
from holdfast.web.request_error import RequestError


@pytest.fixture(scope="module", params=SERVERS)
def server(request):
    with SERVERS[request.param]() as served:
        yield served


@pytest.fixture(params=SERVERS)
def start(request):
    return SERVERS[request.param]


BODY = json.dumps({"messages": [{"role": "user", "content": "hi"}]}).encode()
CHAT = b"/v1/chat/completions"


def ask(path: bytes = CHAT, body: bytes = BODY, **headers: str) -> bytes:
    """A request with these headers in place of the right ones, on a connection that then ends."""
    right = {"host": "localhost", "content-type": "application/json", "content-length": str(len(body))}
    lines = [
        f"{name.replace('_', '-')}: {value}" for name, value in (right | headers | {"connection": "close"}).items()
    ]
    return b"POST " + path + b" HTTP/1.1\r\n" + "\r\n".join([*lines, "", ""]).encode() + body


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def message(answer: bytes) -> str:
    return str(json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["message"])


def test_a_right_request_gets_through(server):
    before = server.reached()
    assert status(server.send(ask())) == 200
    assert server.reached() == before + 1


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example:80", "127.0.0.1.nip.io", "10.0.0.1", "x"])
def test_a_name_that_was_made_to_point_here_is_turned_away(server, host):
    before = server.reached()
    answer = server.send(ask(host=host))
    assert (status(answer), server.reached()) == (403, before)
    assert "--allow-host" in message(answer)


@pytest.mark.parametrize("headers", [{"origin": "https://evil.example"}, {"origin": "null"}])
def test_a_page_of_another_site_is_turned_away_by_its_origin(server, headers):
    before = server.reached()
    assert (status(server.send(ask(**headers))), server.reached()) == (403, before)


@pytest.mark.parametrize("site", ["cross-site", "same-site", "nonsense", ""])
@pytest.mark.parametrize("origin", [{}, {"origin": "http://localhost:3000"}])
def test_a_page_of_another_site_is_turned_away_by_what_its_browser_says(server, site, origin):
    before = server.reached()
    assert (status(server.send(ask(sec_fetch_site=site, **origin))), server.reached()) == (403, before)


@pytest.mark.parametrize("site", ["none", "same-origin"])
def test_the_user_and_the_own_page_are_let_in(server, site):
    assert status(server.send(ask(sec_fetch_site=site))) == 200


@pytest.mark.parametrize("path", [b"/health", b"/", b"/holdfast/proxy", b"/metrics"])
def test_no_path_is_open_to_another_site(server, path):
    assert status(server.send(ask(path, host="evil.example"))) == 403
    assert status(server.send(ask(path, sec_fetch_site="cross-site"))) == 403


def test_an_own_name_is_given_at_the_start(start):
    with start(names=frozenset({"box"})) as served:
        assert status(served.send(ask(host="box:8000"))) == 200


# two lengths

SMUGGLED = b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\n\r\n"
CHUNKED = b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)
TWO_LENGTHS = {
    "both": (b"content-length: 6\r\ntransfer-encoding: chunked\r\n", b"0\r\n\r\nX" + SMUGGLED),
    "the other way round": (b"transfer-encoding: chunked\r\ncontent-length: 6\r\n", b"0\r\n\r\nX" + SMUGGLED),
    "both, and both right": (b"transfer-encoding: chunked\r\ncontent-length: %d\r\n" % len(CHUNKED), CHUNKED),
    "in capitals": (b"Content-Length: 6\r\nTRANSFER-ENCODING: Chunked\r\n", b"0\r\n\r\nX" + SMUGGLED),
    "two different": (b"content-length: 6\r\ncontent-length: 7\r\n", b"123456" + SMUGGLED),
    "a list of two": (b"content-length: 6, 7\r\n", b"123456" + SMUGGLED),
    "a sign": (b"content-length: +6\r\n", b"123456" + SMUGGLED),
    "a negative one": (b"content-length: -1\r\n", SMUGGLED),
    "a coding that we do not know": (b"transfer-encoding: xchunked\r\n", CHUNKED + SMUGGLED),
    "a coding in front": (b"transfer-encoding: gzip, chunked\r\n", CHUNKED + SMUGGLED),
    "a coding twice": (b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n", CHUNKED + SMUGGLED),
    "a space before the colon": (b"transfer-encoding : chunked\r\ncontent-length: 6\r\n", b"0\r\n\r\nX" + SMUGGLED),
    "a folded header": (b"content-length: 6\r\nx: y\r\n transfer-encoding: chunked\r\n z", b"0\r\n\r\n" + SMUGGLED),
}


@pytest.mark.parametrize("case", TWO_LENGTHS)
def test_a_body_with_two_lengths_is_refused_and_its_connection_closed(server, case):
    """What follows such a body is a request to one server and a body to the next."""
    headers, body = TWO_LENGTHS[case]
    before = server.reached()
    head = b"POST " + CHAT + b" HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    answer = server.send(head + headers + b"\r\n" + body)  # which returns only when the connection is closed
    assert answer.count(b"HTTP/1.1 ") == 1
    assert status(answer) in (400, 501)
    assert server.reached() == before


def test_the_refusal_of_two_lengths_says_what_to_send(server):
    headers, body = TWO_LENGTHS["both"]
    answer = server.send(b"POST " + CHAT + b" HTTP/1.1\r\nhost: localhost\r\n" + headers + b"\r\n" + body)
    assert "Content-Length or Transfer-Encoding, not both" in message(answer)


# paths


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"/", b"/"),
        (b"/v1/models", b"/v1/models"),
        (b"/v1/./models", b"/v1/models"),
        (b"/v1/x/../models", b"/v1/models"),
        (b"/v1/x/%2e%2E/models", b"/v1/models"),
        (b"/v1/.%2e/v1/%2e/models", b"/v1/models"),
        (b"/a/b/..", b"/a/"),
        (b"/a/.", b"/a/"),
        (b"/a//b", b"/a//b"),
        (b"/a%20b/%41", b"/a%20b/%41"),
        (b"/models/org%2Fname", b"/models/org%2Fname"),
        (b"/a...b/..c/d..", b"/a...b/..c/d.."),
    ],
)
def test_a_path_is_normalised(raw, expected):
    assert normalize_path(raw) == expected


@pytest.mark.parametrize(
    "raw",
    [
        *(b"", b"*", b"v1/models", b"http://evil.example/v1/models"),
        *(b"/..", b"/../admin", b"/v1/../../admin", b"/%2e%2e/admin", b"/a/%2E./../../admin"),
        *(b"/v1/..%2fadmin", b"/v1/%2e%2e%2fadmin", b"/v1/x%2f..%2f..%2fadmin", b"/v1/..%5cadmin", b"/v1/..\\admin"),
        *(b"/%252e%252e/admin", b"/v1/..%252fadmin", b"/v1/..;/admin", b"/v1/%2e%2e;x=1/admin"),
        *(b"/v1/%" + b"25" * 50 + b"2e",),
    ],
)
def test_a_path_that_climbs_or_hides_a_climb_is_refused(raw):
    with pytest.raises(RequestError):
        normalize_path(raw)


def test_no_path_leaves_the_prefix_of_the_upstream():
    """Whatever is asked, the upstream sees its own prefix or nothing at all."""
    steps = [b"..", b"%2e%2e", b".%2e", b"..%2f", b"..%5c", b"..;", b".", b"x", b"", b"%252e%252e"]
    paths = [b"/" + b"/".join((a, b, c)) for a in steps for b in steps for c in (b"admin", b"..", b"%2e%2e%2f..")]
    with proxying(prefix="/team/v1") as served:
        answers = {status(served.send(ask(path))) for path in paths}
        seen = [request.path for request in served.up.seen]
    assert answers <= {200, 400}
    assert seen
    assert all(path.startswith("/team/v1/") and ".." not in path and "%2e" not in path.lower() for path in seen)


@pytest.mark.parametrize("path", [b"http://evil.example/v1/models", b"*", b"v1/models", b"//../../admin"])
def test_a_target_that_is_no_path_goes_nowhere(server, path):
    before = server.reached()
    assert status(server.send(ask(path))) == 400
    assert server.reached() == before


def test_an_open_path_is_no_way_around_a_key():
    with serving(keys=frozenset({digest("k")})) as served:
        for path in (b"/page/../v1/models", b"/page/%2e%2e/metrics", b"/health/../holdfast/sessions"):
            assert status(served.send(ask(path, b"").replace(b"POST", b"GET", 1))) == 401
