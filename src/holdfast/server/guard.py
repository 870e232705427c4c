"""What every request passes before any route: who asks, how much, how often; and what no route let out."""

from __future__ import annotations

import logging

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from holdfast.server import auth, problems
from holdfast.server.settings import Settings

log = logging.getLogger("holdfast.server")


class Gone(Exception):
    """The client hung up before its request was whole."""


class Guard:
    """ASGI middleware; `request.state.key` is the digest of the caller's key from here on."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app, self.settings = app, settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            scope.setdefault("state", {})["key"] = auth.admit(scope["path"], Headers(scope=scope), self.settings)
            await self.app(scope, receive, watched)
        except Exception as error:
            if started:
                raise
            if problems.problem_of(error).status == 500:
                log.exception("%s %s", scope["method"], scope["path"])
            await problems.response(error, scope["path"])(scope, receive, send)
