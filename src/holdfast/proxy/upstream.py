"""The API behind the proxy: requests go to it as they came, but for their body, their host and what is of one hop."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from hashlib import sha256
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any

import httpx

Headers = list[tuple[bytes, bytes]]
Scope = dict[str, Any]

CONNECT_SECONDS = 10.0
_HOP = {
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
_OURS = {b"host", b"expect"}  # the server in front of us has answered what a client expects
_BEARER = b"bearer"
_KEYS = (b"authorization", b"x-api-key", b"api-key", b"x-goog-api-key")


@dataclass(frozen=True)
class Upstream:
    """Where requests go, and by what."""

    address: str
    client: httpx.AsyncClient
    key: str = field(default="", repr=False)
    timeout: float = 600.0

    async def send(self, scope: Scope, body: bytes | AsyncIterator[bytes]) -> httpx.Response:
        """The answer, its body not yet read. Raises httpx.TransportError, or httpx.InvalidURL and ValueError for a path
        that cannot be sent."""
        headers = [pair for pair in end_to_end(scope["headers"]) if pair[0].lower() not in _OURS]
        if isinstance(body, bytes):
            headers = [pair for pair in headers if pair[0].lower() != b"content-length"]
            headers.append((b"content-length", b"%d" % len(body)))
        if own := self._own_key(scope):
            headers = [*(pair for pair in headers if pair[0].lower() not in _KEYS), *own]
        # Made here, because the client's own requests get headers that the caller did not send.
        request = httpx.Request(
            scope["method"],
            target(self.address, scope),
            headers=headers,
            content=body if _has_body(headers, scope) else None,
            extensions={"timeout": httpx.Timeout(self.timeout, connect=CONNECT_SECONDS).as_dict()},
        )
        return await self.client.send(request, stream=True)

    def _own_key(self, scope: Scope) -> Headers:
        """The proxy's key, where the client sends none. Never for a page in a browser, which may be anybody's."""
        names = {name.lower(): value for name, value in scope["headers"]}
        if not self.key or caller_key(scope) or b"origin" in names:
            return []
        if like_anthropic(scope):
            return [(b"x-api-key", self.key.encode())]
        return [(b"authorization", b"Bearer " + self.key.encode())]


def client_for(transport: httpx.AsyncBaseTransport | None) -> httpx.AsyncClient:
    """A client that follows nothing and remembers nothing: cookies of one caller are not another's."""
    return httpx.AsyncClient(
        transport=transport,
        follow_redirects=False,
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=100),
    )


def target(address: str, scope: Scope) -> httpx.URL:
    """The URL of a request: its path behind that of the upstream. What both paths share there (`/v1`) stands once."""
    url = httpx.URL(address)
    path: bytes = scope.get("raw_path") or scope["path"].encode()
    parts = url.raw_path.strip(b"/").split(b"/")
    shared = (b"/".join(parts[at:]) for at in range(len(parts)))
    same = next((end for end in shared if end and path.startswith(b"/" + end + b"/")), b"")
    whole = url.raw_path.rstrip(b"/") + (path[len(same) + 1 :] if same else path)
    return url.copy_with(raw_path=whole + (b"?" + scope["query_string"] if scope["query_string"] else b""))


def end_to_end(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """The headers without those of one hop."""
    pairs = list(headers)
    named = (value for name, value in pairs if name.lower() == b"connection")
    gone = _HOP | {token.strip().lower() for value in named for token in value.split(b",")}
    return [(name, value) for name, value in pairs if name.lower() not in gone]


def caller_key(scope: Scope) -> bytes:
    """The key that a request carries, bare, whatever the header; empty where it carries none."""
    found = (value.strip() for name, value in scope["headers"] if name.lower() in _KEYS)
    bare = (value[len(_BEARER) :].strip() if value.lower().startswith(_BEARER) else value for value in found)
    return b"\n".join(value for value in bare if value)


def digest(key: bytes) -> str:
    """What stands for a key wherever keys are told apart; `none` for no key."""
    return sha256(key).hexdigest() if key else "none"


def like_anthropic(scope: Scope) -> bool:
    """Whether the caller is a client of Anthropic's wire."""
    return any(name.lower() == b"anthropic-version" for name, _ in scope["headers"])


def _has_body(headers: Headers, scope: Scope) -> bool:
    names = {name.lower() for name, _ in (*headers, *scope["headers"])}
    return bool(names & {b"content-length", b"transfer-encoding"})
