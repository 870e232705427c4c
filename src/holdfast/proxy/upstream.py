"""The API behind the proxy: requests go to it as they came, but for their body and the headers in `headers.py`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from http.cookiejar import CookieJar, DefaultCookiePolicy

import httpx

from holdfast.proxy.headers import Scope, has_body, headers_to_upstream

CONNECT_SECONDS = 10.0


@dataclass(frozen=True)
class Upstream:
    """An address that requests go to, and the client that sends them."""

    address: str
    client: httpx.AsyncClient
    key: str = field(default="", repr=False)
    timeout: float = 600.0
    """Seconds that the upstream may be silent."""

    async def send(self, scope: Scope, body: bytes | AsyncIterator[bytes], plain: bool = False) -> httpx.Response:
        """Returns the answer, its body not yet read. `plain`: the body is not compressed as the caller's headers say.

        Raises httpx.TransportError, or httpx.InvalidURL and ValueError for a path that cannot be sent.
        """
        headers = headers_to_upstream(scope, len(body) if isinstance(body, bytes) else None, self.key, plain)
        # Made here, because the client's own requests get headers that the caller did not send.
        request = httpx.Request(
            scope["method"],
            target(self.address, scope),
            headers=headers,
            content=body if has_body(headers, scope) else None,
            extensions={"timeout": httpx.Timeout(self.timeout, connect=CONNECT_SECONDS).as_dict()},
        )
        return await self.client.send(request, stream=True)


def client_for(transport: httpx.AsyncBaseTransport | None) -> httpx.AsyncClient:
    """Returns a client that follows no redirect and stores no cookie: those of one caller are not another's."""
    return httpx.AsyncClient(
        transport=transport,
        follow_redirects=False,
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=100),
    )


def target(address: str, scope: Scope) -> httpx.URL:
    """Returns the URL of a request: its path, normalised before, behind that of the upstream.

    A path that both share there (`/v1`) stands once.
    """
    url = httpx.URL(address)
    path: bytes = scope.get("raw_path") or scope["path"].encode()
    parts = url.raw_path.strip(b"/").split(b"/")
    shared = (b"/".join(parts[at:]) for at in range(len(parts)))
    same = next((end for end in shared if end and path.startswith(b"/" + end + b"/")), b"")
    whole = url.raw_path.rstrip(b"/") + (path[len(same) + 1 :] if same else path)
    return url.copy_with(raw_path=whole + (b"?" + scope["query_string"] if scope["query_string"] else b""))
