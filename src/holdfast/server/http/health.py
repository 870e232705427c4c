"""For whoever watches the server: is it alive, may it be asked, and what has it done."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse, Response
from pydantic import BaseModel

from holdfast.errors import Busy
from holdfast.server.http.metrics import CONTENT_TYPE

router = APIRouter(tags=["Watching"])
_PAGE: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/plain": {}}, "description": "Prometheus' text format."}
}


class Health(BaseModel):
    """It answers."""

    status: Literal["ok"] = "ok"
    model: str


@router.get("/health/live")
async def live(request: Request) -> Health:
    """Reports that the process lives."""
    return Health(model=request.app.state.host.model)


@router.get("/health/ready")
@router.get("/health")
async def ready(request: Request) -> Health:
    """Reports whether one more request would be taken."""
    if request.app.state.stopping:
        raise Busy("the server is stopping")
    answering = request.app.state.limits.answering
    if answering.full:
        raise Busy(f"all {answering.most} places for requests are taken")
    return Health(model=request.app.state.host.model)


@router.get("/metrics", response_class=PlainTextResponse, responses=_PAGE)
def metrics(request: Request) -> Response:
    """Sends the counters and gauges of the caller's key, for Prometheus."""
    return Response(request.app.state.metrics.of(request.state.key).render(), media_type=CONTENT_TYPE)
