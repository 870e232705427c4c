"""JSON bodies: read beside the event loop, with a limit on the items of a list, and handed to the routes as values.

The C decoder of the standard library holds the interpreter for as long as it reads, 2.7 seconds for 32 MB of `{},{},…`,
in whatever thread it runs. Long bodies are therefore read by its decoder in Python, which gives way between values.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from json.decoder import JSONArray  # type: ignore[attr-defined]
from json.scanner import py_make_scanner  # type: ignore[attr-defined]
from typing import Any

from fastapi import Request
from fastapi.responses import Response
from fastapi.routing import APIRoute
from starlette.datastructures import Headers

from holdfast.transcript.document import MalformedEntry, parse_json
from holdfast.web.request_error import RequestError

LONG = 2**18
"""Bytes above which a body is read in a worker thread."""


class JsonRoute(APIRoute):
    """A route that takes the value which `read_json` has read, and does not decode the body again."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Returns the handler of the route."""
        handle = super().get_route_handler()

        async def serve(request: Request) -> Response:
            return await handle(DecodedRequest(request.scope, request.receive))

        return serve


class DecodedRequest(Request):
    """A request whose JSON is there already."""

    async def json(self) -> Any:
        """Returns the value of the body and lets go of it, for an answer may take minutes."""
        return self.scope["state"].pop("json", None)


async def read_json(body: bytes, headers: Headers, path: str, most: int) -> Any:
    """Returns the value of a JSON body, without half characters and NaN; None for a body of another kind.

    Raises RequestError for what is no JSON, for a list of more than `most` items at the top (in a long body: anywhere),
    and for a body of another kind under /v1, where only JSON is read.
    """
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if not body:
        return None
    if not (kind == "application/json" or kind.endswith("+json")):
        if path.startswith("/v1/"):
            raise RequestError(f"send Content-Type: application/json, not {kind[:80] or 'none'}", status=415)
        return None
    if len(body) <= LONG:
        return decode(body, most, json.JSONDecoder)
    return await asyncio.to_thread(decode, body, most, _polite_decoder(most))


def decode(body: bytes, most: int, decoder: type[json.JSONDecoder]) -> Any:
    """Returns the value of a body. Raises RequestError."""
    try:
        value = parse_json(body.decode("utf-8-sig"), decoder)
    except UnicodeDecodeError as error:
        raise RequestError(f"the body is not UTF-8: byte {error.start} cannot stand there") from None
    except MalformedEntry as error:
        raise RequestError(f"the body is not JSON that can be read: {error}") from None
    for name, items in value.items() if isinstance(value, dict) else ():
        if isinstance(items, list) and len(items) > most:
            raise _too_many(f"{name[:40]!r} has {len(items):,} items", most)
    return value


def _polite_decoder(most: int) -> type[json.JSONDecoder]:
    """Returns a decoder that gives way to other threads between values, and stops at a list of too many items."""

    def parse_array(at: Any, scan_once: Callable[[str, int], Any]) -> Any:
        left = most

        def scan_item(text: str, index: int) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                raise _too_many("a list of the body is longer", most)
            return scan_once(text, index)

        return JSONArray(at, scan_item)

    class PoliteDecoder(json.JSONDecoder):
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            self.parse_array = parse_array
            self.scan_once = py_make_scanner(self)

    return PoliteDecoder


def _too_many(what: str, most: int) -> RequestError:
    return RequestError(
        f"{what}, and this server reads at most {most:,} messages, or other items of a list, in one request; start it "
        "with a larger --max-messages, or send less",
        status=413,
    )
