"""Authentication: API keys as digests."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from pathlib import Path

from starlette.datastructures import Headers

from holdfast.config import read_secret
from holdfast.errors import BadOption
from holdfast.server.http.settings import Settings
from holdfast.web.request_error import RequestError

OPEN = ("/", "/docs", "/openapi.json", "/health")
"""Paths that need no key: they tell nothing of any session."""
VARIABLE = "HOLDFAST_API_KEYS"


def digest(key: str) -> str:
    """Returns the sha256 that stands for a key everywhere; empty for no key."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest() if key else ""


def read_keys(file: Path | None) -> frozenset[str]:
    """Returns the digests of the keys in a file, one on each line, and in $HOLDFAST_API_KEYS. Raises BadOption."""
    lines = _lines(file) if file else []
    if file and not lines:
        raise BadOption(f"{file} holds no API key; write one on each line")
    return frozenset(map(digest, lines + _strip(read_secret(VARIABLE).split(","))))


def _lines(file: Path) -> list[str]:
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise BadOption(f"{file} is not UTF-8 text; write an API key on each line") from error
    except OSError as error:
        raise BadOption(f"{file} cannot be read: {error.strerror}; write an API key on each line of a file") from error
    return [line for line in _strip(text.splitlines()) if not line.startswith("#")]


def _strip(texts: Iterable[str]) -> list[str]:
    return [text.strip() for text in texts if text.strip()]


def admit(path: str, headers: Headers, settings: Settings) -> str:
    """Returns the digest of the caller's key. Raises RequestError with 401 if it is none of the server's."""
    given = [digest(key) for key in request_keys(headers)]
    if not settings.keys:
        return given[0] if given else ""
    for one in given:
        # every configured key is compared, so that the time tells nothing of which was near
        if sum(hmac.compare_digest(one, known) for known in settings.keys):
            return one
    if is_open(path):
        return ""
    told = "this API key is not known here" if given else "no API key was sent"
    raise RequestError(f"{told}; send one that the server was started with, as 'Authorization: Bearer KEY'", status=401)


def is_open(path: str) -> bool:
    """Returns True if the path needs no key and counts towards no limit."""
    return path in OPEN or path.startswith(("/health/", "/page/"))


def request_keys(headers: Headers) -> list[str]:
    """Returns the keys of a request, a bearer token before `x-api-key` and Google's header."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    bearer = token if scheme.lower() == "bearer" else ""
    return _strip((bearer, headers.get("x-api-key", ""), headers.get("x-goog-api-key", "")))
