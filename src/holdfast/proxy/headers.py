"""Headers: those that end at the proxy, those that carry a key, and the one that the proxy adds."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256
from typing import Any

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
SHOWN = 12
"""Characters of a key's digest that are shown."""
_BEARER = b"bearer"


def end_to_end(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """Returns the headers without those of one hop."""
    pairs = list(headers)
    named = (value for name, value in pairs if name.lower() == b"connection")
    dropped = HOP_BY_HOP | {token.strip().lower() for value in named for token in value.split(b",")}
    return [(name, value) for name, value in pairs if name.lower() not in dropped]


def headers_to_upstream(scope: Scope, body_length: int | None, own_key: str) -> Headers:
    """Returns the headers of a request as it goes up.

    `body_length` replaces the caller's Content-Length unless it is None. `own_key` is added if the caller sends no key.
    """
    headers = [pair for pair in end_to_end(scope["headers"]) if pair[0].lower() not in OF_THIS_SERVER]
    if body_length is not None:
        headers = [pair for pair in headers if pair[0].lower() != b"content-length"]
        headers.append((b"content-length", b"%d" % body_length))
    if added := _own_key(scope, own_key):
        headers = [*(pair for pair in headers if pair[0].lower() not in KEYS), *added]
    return headers


def holdfast_header(before: int, after: int, compactions: int) -> Headers:
    """Returns the header that the proxy adds to an answer: tokens of the history before and after, and compactions."""
    return [(b"x-holdfast", b"before=%d;after=%d;compactions=%d" % (before, after, compactions))]


def caller_key(scope: Scope) -> bytes:
    """Returns the key that a request carries, bare, whatever the header; empty if it carries none."""
    values = (value.strip() for name, value in scope["headers"] if name.lower() in KEYS)
    bare = (value[len(_BEARER) :].strip() if value.lower().startswith(_BEARER) else value for value in values)
    return b"\n".join(value for value in bare if value)


def caller_digest(scope: Scope) -> str:
    """Returns what stands for a caller's key wherever keys are told apart; `none` for no key."""
    key = caller_key(scope)
    return sha256(key).hexdigest() if key else "none"


def is_anthropic_client(scope: Scope) -> bool:
    """Returns True if the caller speaks Anthropic's wire."""
    return any(name.lower() == b"anthropic-version" for name, _ in scope["headers"])


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
    return [(b"authorization", b"Bearer " + key.encode())]
