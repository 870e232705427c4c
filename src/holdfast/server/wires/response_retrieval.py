"""Responses that are kept: read again by their ids, listed with what they answer, forgotten; and a prompt's tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, Response

from holdfast.server.http.json_body import JsonRoute
from holdfast.server.wires.response_store import Preamble
from holdfast.server.wires.response_tools import read_tools
from holdfast.server.wires.responses import Create, ResponseBody, read_history
from holdfast.web.request_error import RequestError

router = APIRouter(tags=["OpenAI"], route_class=JsonRoute)


@router.post("/v1/responses/input_tokens")
async def input_tokens(request: Request, body: Create) -> dict[str, Any]:
    """Returns the tokens of the prompt as the model reads it, without reading it."""

    def count() -> int:
        offer = read_tools(body.tools or ())
        around = Preamble(offer.functions, body.instructions)
        ask = read_history(body, request, offer).ask(request.state.key, around)
        return int(request.app.state.host.count(ask))

    return {"object": "response.input_tokens", "input_tokens": await run_in_threadpool(count)}


@router.get("/v1/responses/{response_id}", responses={200: {"model": ResponseBody}})
async def retrieve(response_id: str, request: Request) -> Response:
    """Returns a response that is kept."""
    body, _ = _find_body(request, response_id)
    return JSONResponse(dict(body))


@router.get("/v1/responses/{response_id}/input_items")
async def input_items(response_id: str, request: Request) -> dict[str, Any]:
    """Lists the items that a response answers, the newest first."""
    _, items = _find_body(request, response_id)
    listed = [{"id": f"{response_id}_{number}", **item} for number, item in enumerate(items)][::-1]
    ids = [str(item["id"]) for item in listed] or [""]
    return {"object": "list", "data": listed, "has_more": False, "first_id": ids[0], "last_id": ids[-1]}


@router.delete("/v1/responses/{response_id}")
async def delete(response_id: str, request: Request) -> dict[str, Any]:
    """Forgets a response; its session stays."""
    _find_body(request, response_id)
    request.app.state.responses.forget(request.state.key, response_id)
    return {"id": response_id, "object": "response", "deleted": True}


def _find_body(request: Request, name: str) -> tuple[Mapping[str, Any], tuple[Mapping[str, Any], ...]]:
    found: tuple[Mapping[str, Any], tuple[Mapping[str, Any], ...]] | None
    found = request.app.state.responses.find_body(request.state.key, name)
    if found is None:
        told = f"there is no response {name[:80]!r} here (any more); send its history again"
        raise RequestError(told, "response_id", status=404, code="not_found")
    return found
