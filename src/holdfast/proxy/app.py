"""The ASGI application of the proxy: its own few paths, and the gateway for all others."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from holdfast.proxy.gateway import Gateway, ProxySend, send_error
from holdfast.proxy.options import Options, is_loopback, upstream_address
from holdfast.proxy.request_body import Receive
from holdfast.proxy.turn_pages import PATH, TurnPages
from holdfast.proxy.wires import error_body
from holdfast.web.front_door import check_request
from holdfast.web.pages import PAGE_HEADERS, read_assets
from holdfast.web.request_error import RequestError


def create_proxy(
    upstream: str,
    options: Options | None = None,
    transport: httpx.AsyncBaseTransport | None = None,
    at_end: Callable[[Mapping[str, float]], None] | None = None,
) -> Starlette:
    """Returns the ASGI application. `at_end` is called with the counts of all keys when it ends.

    Raises BadOption for an address or a plan that cannot work, OSError for a log that cannot be written.
    """
    options = options or Options()
    gateway = Gateway(upstream_address(upstream), options, transport)

    pages = TurnPages(gateway.journal)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await gateway.close()
        if at_end:
            at_end(gateway.totals())

    routes = [
        Route("/health", _answer_health, methods=["GET"]),
        Route("/holdfast/proxy", local_only(gateway.answer_status), methods=["GET"]),
        Route("/holdfast/stats", local_only(gateway.answer_status), methods=["GET"]),
        Route(f"{PATH}/{{session}}", pages.answer, methods=["GET"]),
        Route(f"{PATH}/{{session}}/{{turns}}", pages.answer, methods=["GET"]),
        Route("/holdfast", local_only(_answer_page), methods=["GET"]),
        Route("/holdfast/", local_only(_answer_page), methods=["GET"]),
        Route("/holdfast/page/{name}", local_only(_answer_page), methods=["GET"]),
        Route("/{path:path}", gateway),
    ]
    app = Starlette(routes=routes, lifespan=lifespan)
    app.add_middleware(FrontDoor, options=options)
    app.router.redirect_slashes = False
    return app


class FrontDoor:
    """ASGI middleware that turns down requests which `check_request` refuses."""

    def __init__(self, app: Any, options: Options) -> None:
        self.app, self.options = app, options

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: ProxySend) -> None:
        if scope["type"] == "http":
            try:
                check_request(scope, self.options.own_names)
            except RequestError as error:
                await send_error(error.status, str(error), scope, send, close=error.close)
                return
        await self.app(scope, receive, send)


def local_only(answer: Any) -> Any:
    """Returns an endpoint that answers 403 to other machines."""

    async def endpoint(request: Request) -> Response:
        if not request.client or not is_loopback(request.client.host):
            message = "the status is shown on this machine only; ask at its loopback address"
            return JSONResponse(error_body(403, message, False), 403)
        response: Response = await answer(request)
        return response

    return endpoint


async def _answer_health(_: Request) -> JSONResponse:
    return JSONResponse({"status": "ok"})


async def _answer_page(request: Request) -> Response:
    name = request.path_params.get("name", "index.html")
    asset = read_assets("holdfast.proxy").get(name)
    if asset is None:
        message = f"the page has no file {name[:80]!r}; it starts at /holdfast"
        return JSONResponse(error_body(404, message, False), 404)
    return Response(asset.content, media_type=asset.media_type, headers=PAGE_HEADERS)
