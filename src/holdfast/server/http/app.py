"""The application: routes, limits and error shapes around a host. Knows no wire and no model."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from holdfast import __version__
from holdfast.errors import HoldfastError
from holdfast.server.http import docs_page, errors, health, live_page, models, session_endpoints
from holdfast.server.http.limits import Guard, Limits
from holdfast.server.http.metrics import Metrics
from holdfast.server.http.settings import Settings
from holdfast.server.protocol import Host
from holdfast.server.wires import chat, completions, gemini, messages, response_retrieval, responses
from holdfast.server.wires.response_store import ResponseStore

ROUTERS = (
    *(chat.router, completions.router, messages.router, responses.router, response_retrieval.router),
    *(gemini.router, models.router, health.router),
    *(session_endpoints.router, live_page.router, docs_page.router),
)
ABOUT = "Point an agent at /v1. Its history is kept small inside the model; `holdfast` beside the usage says how."


def create_app(host: Host, settings: Settings | None = None) -> FastAPI:
    """Returns the whole server. Closes the host when it is shut down."""
    settings = settings or Settings()
    responses: dict[int | str, dict[str, Any]] = {
        "4XX": {"model": errors.OpenAIError, "description": "The request cannot be served."},
        "5XX": {"model": errors.OpenAIError, "description": "The server failed, or is busy."},
    }
    app = FastAPI(
        title="Holdfast",
        version=__version__,
        description=ABOUT,
        lifespan=_lifespan,
        responses=responses,
        docs_url=None,
        redoc_url=None,
    )
    app.state.host, app.state.settings, app.state.responses = host, settings, ResponseStore()
    app.state.metrics, app.state.limits, app.state.started = Metrics(host), Limits(settings), int(time.time())
    app.state.stopping = False  # set when the server is told to end: streams without an end then end
    app.state.pool = ThreadPoolExecutor(settings.concurrency, "answer")
    for kind in (HoldfastError, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, _refuse)
    app.add_middleware(Guard, settings=settings, metrics=app.state.metrics, limits=app.state.limits)
    for router in ROUTERS:
        app.include_router(router)
    return app


async def _refuse(request: Request, error: Exception) -> Response:
    return errors.error_response(error, request.url.path)


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    yield
    await asyncio.to_thread(app.state.host.close)
