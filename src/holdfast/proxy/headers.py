"""Headers: those that end at the proxy, those that carry a key, and the one that the proxy adds."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256
from typing import Any
from urllib.parse import parse_qsl

Headers = list[tuple[bytes, bytes]]
Scope = dict[str, Any]

HOP_BY_HOP = {
    b"connection",
    b"keep-alive",
    b"proxy-authenticate",
    b"proxy-authorization",
    b"proxy-connection",
    b"te",
    b"trailer",
    b"transfer-encoding",
    b"upgrade",
}
OF_THIS_SERVER = {b"host", b"expect"}
"""Headers that the proxy has acted on itself."""
KEYS = (b"authorization", b"x-api-key", b"api-key", b"x-goog-api-key")
HOLDFAST = b"x-holdfast"
SHOWN = 12
"""Characters of a key's digest that are shown."""
_BEARER = b"bearer"


def end_to_end(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """Returns the headers without those of one hop."""
    pairs = list(headers)
    named = (value for name, value in pairs if name.lower() == b"connection")
    dropped = HOP_BY_HOP | {token.strip().lower() for value in named for token in value.split(b",")}
    return [(name, value) for name, value in pairs if name.lower() not in dropped]


def headers_to_upstream(scope: Scope, body_length: int | None, own_key: str, plain: bool = False) -> Headers:
    """Returns the headers of a request as it goes up.

    `body_length` replaces the caller's Content-Length unless it is None. `own_key` is added if the caller sends no key.
    `plain` says that the body is no longer compressed.
    """
    dropped = OF_THIS_SERVER | ({b"content-encoding"} if plain else set())
    headers = [pair for pair in end_to_end(scope["headers"]) if pair[0].lower() not in dropped]
    if body_length is not None:
        headers = [pair for pair in headers if pair[0].lower() != b"content-length"]
        headers.append((b"content-length", b"%d" % body_length))
    if added := _own_key(scope, own_key):
        headers = [*(pair for pair in headers if pair[0].lower() not in KEYS), *added]
    return headers


def holdfast_header(before: int, after: int, compactions: int, over: int = 0, passed: str = "") -> Headers:
    """Returns the header that the proxy adds to an answer: tokens of the history before and after, and compactions;
    tokens over the budget, and the reason why the request passed as it came, where there are such.
    """
    value = b"before=%d;after=%d;compactions=%d" % (before, after, compactions)
    value += b";over=%d" % over if over else b""
    return [(HOLDFAST, value + (b";passed=" + passed.encode() if passed else b""))]


def caller_key(scope: Scope) -> bytes:
    """Returns the key that a request carries, bare, wherever; empty if it carries none."""
    values = [value.strip() for name, value in scope["headers"] if name.lower() in KEYS]
    if not values:  # Gemini's clients may send it in the query
        values = [value for name, value in parse_qsl(scope.get("query_string", b"")) if name == b"key"]
    bare = (value[len(_BEARER) :].strip() if value.lower().startswith(_BEARER) else value for value in values)
    return b"\n".join(value for value in bare if value)


def caller_digest(scope: Scope) -> str:
    """Returns what stands for a caller's key wherever keys are told apart; `none` for no key."""
    key = caller_key(scope)
    return sha256(key).hexdigest() if key else "none"


def is_anthropic_client(scope: Scope) -> bool:
    """Returns True if the caller speaks Anthropic's wire."""
    return any(name.lower() == b"anthropic-version" for name, _ in scope["headers"])


def is_gemini_client(scope: Scope) -> bool:
    """Returns True if the caller speaks Gemini's wire."""
    return any(name.lower() == b"x-goog-api-key" for name, _ in scope["headers"])


def content_encodings(scope: Scope) -> tuple[str, ...]:
    """Returns the encodings of a request's body, the outermost last."""
    values = (value for name, value in scope["headers"] if name.lower() == b"content-encoding")
    names = (name.strip().lower().decode("latin-1") for value in values for name in value.split(b","))
    return tuple(name for name in names if name not in ("", "identity"))


def asks_for_socket(scope: Scope) -> bool:
    """Returns True if a request would become a WebSocket."""
    return any(name.lower() == b"upgrade" and b"websocket" in value.lower() for name, value in scope["headers"])


def has_body(headers: Headers, scope: Scope) -> bool:
    """Returns True if a request announces a body."""
    names = {name.lower() for name, _ in (*headers, *scope["headers"])}
    return bool(names & {b"content-length", b"transfer-encoding"})


def _own_key(scope: Scope, key: str) -> Headers:
    """Returns the proxy's key as a header; never for a page in a browser, which may be anybody's."""
    names = {name.lower() for name, _ in scope["headers"]}
    if not key or caller_key(scope) or b"origin" in names or b"sec-fetch-site" in names:
        return []
    if is_anthropic_client(scope):
        return [(b"x-api-key", key.encode())]
    if scope["path"].lower().endswith("generatecontent"):
        return [(b"x-goog-api-key", key.encode())]
    return [(b"authorization", b"Bearer " + key.encode())]
