"""Checks of a request before any of it is read: its framing, its path, and whether a web page of another site sent it.

A browser lets any page send requests to this machine. A page whose name was made to point here (DNS rebinding) could
also read the answers, so a server on loopback answers only to its own names.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any
from urllib.parse import quote, unquote, unquote_to_bytes

from starlette.datastructures import Headers

from holdfast.web.request_error import RequestError

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")
OWN_PAGES = ("none", "same-origin")
"""Values of Sec-Fetch-Site: the user typed the address, or the page came from this very server."""
DECODINGS = 4  # of one path; a path that still changes after these was written to be misread
_SEPARATORS = re.compile(rb"[/\\]")
_DOTS = (b".", b"..")


def check_request(scope: dict[str, Any], names: Collection[str] | None) -> None:
    """Raises RequestError for a request that must not be served, and normalises its path in the scope.

    `names` are those that a Host header may have; None allows every name, for a server that asks for keys.
    """
    headers = Headers(scope=scope)
    check_framing(headers)
    if names is not None:
        check_names(headers, names)
    site = headers.get("sec-fetch-site")
    if site is not None and site.strip().lower() not in OWN_PAGES:
        raise RequestError(
            f"a web page of another site asks (Sec-Fetch-Site: {site[:40]}); open this server's own address", status=403
        )
    raw = normalize_path(scope.get("raw_path") or quote(scope["path"]).encode())
    scope["raw_path"], scope["path"] = raw, unquote(raw.decode("latin-1"))


def check_framing(headers: Headers) -> None:
    """Raises RequestError for a body with two lengths, which two servers in a row would cut at different places."""
    if "transfer-encoding" in headers and "content-length" in headers:
        raise RequestError("a request has Content-Length or Transfer-Encoding, not both; send one of them", close=True)


def check_names(headers: Headers, names: Collection[str]) -> None:
    """Raises RequestError unless Host, and Origin where there is one, have one of the names."""
    host = host_name(headers.get("host", ""))
    if host not in names:
        raise RequestError(f"this server does not go by the name {host[:80]!r}; start it with --allow-host", status=403)
    origin = headers.get("origin")
    if origin is not None and host_name(origin.partition("://")[2]) not in names:
        raise RequestError(f"a page of {origin[:80]!r} may not ask this server; start it with --allow-host", status=403)


def host_name(host: str) -> str:
    """Returns the name in a Host header, without its port."""
    name = host.rpartition(":")[0] if ":" in host and not host.endswith("]") else host
    return name.lower().rstrip(".")


def normalize_path(raw: bytes) -> bytes:
    """Returns a path without dot segments.

    Raises RequestError for what is no absolute path, for one that climbs above its root, and for dot segments that show
    only when a separator is decoded.
    """
    if not raw.startswith(b"/"):
        raise RequestError(f"a path begins with /, got {raw[:80].decode('latin-1')!r}; ask for a path of this server")
    steps: list[bytes] = []
    segments = raw.split(b"/")[1:]
    for at, segment in enumerate(segments):
        plain = _decode(segment)
        if plain not in _DOTS:
            if any(part.partition(b";")[0] in _DOTS for part in _SEPARATORS.split(plain)):
                raise RequestError("the path hides a step to a parent folder; ask for the path that you mean")
            steps.append(segment)
            continue
        if plain == b"..":
            if not steps:
                raise RequestError("the path climbs above its root; ask for a path without '..'")
            steps.pop()
        if at == len(segments) - 1:
            steps.append(b"")
    return b"/" + b"/".join(steps)


def _decode(segment: bytes) -> bytes:
    """Returns a segment as the last of several servers in a row would read it."""
    for _ in range(DECODINGS):
        plain = unquote_to_bytes(segment)
        if plain == segment:
            return plain
        segment = plain
    raise RequestError(f"the path is percent-encoded more than {DECODINGS - 1} times; encode it once")
