"""Endpoints that agents' own wires do not have: list, read, compact, undo, pin, mark, export and import sessions."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Query, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import State

from holdfast.server.http.json_body import JsonRoute
from holdfast.server.http.sse import Stream
from holdfast.server.protocol import Host, RawTurn, SessionDetail, SessionRow

router = APIRouter(prefix="/holdfast", tags=["sessions"], route_class=JsonRoute)
PAUSE = 0.5
"""Seconds between two looks at the sessions for a client that follows them."""
HEARTBEAT = 15.0
"""Seconds of silence after which such a client is told that the server is there."""
FILE: dict[str, Any] = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
EVENTS: dict[str, Any] = {"text/event-stream": {"schema": {"type": "string"}}}


class Json(JSONResponse):
    """ASCII, so that a lone surrogate in a session is told as it is and breaks nothing."""

    def render(self, content: Any) -> bytes:
        return dumps(content)


def dumps(content: Any) -> bytes:
    return json.dumps(content, allow_nan=False, separators=(",", ":")).encode("ascii")


class Caller:
    """The host, for one key."""

    def __init__(self, request: Request) -> None:
        self.host: Host = request.app.state.host
        self.key: str = request.state.key


async def _caller(request: Request) -> Caller:
    return Caller(request)


By = Annotated[Caller, Depends(_caller)]
Session = Annotated[
    str, Path(description="The `id` of a row, which every answer's `holdfast.session.session` has too.")
]
Number = Annotated[int, Path(ge=1, description="Counted from 1.")]


class CompactOptions(BaseModel):
    """The options of a compaction now; what is left out is as the server was started."""

    model_config = ConfigDict(extra="forbid", strict=True)

    latent: Annotated[str | None, Field(max_length=1000, description="Method: `name` or `name:key=value,…`.")] = None
    ratio: Annotated[float | None, Field(ge=1, allow_inf_nan=False, description="Tokens per slot.")] = None
    slots: Annotated[int | None, Field(ge=1, description="Of the whole context, in place of a ratio.")] = None
    by_turn: Annotated[bool | None, Field(description="Each turn on its own.")] = None
    keep_recent: Annotated[int | None, Field(ge=0, description="Newest exchanges that stay word for word.")] = None
    gate: Annotated[bool | None, Field(description="Measure what was lost, and repair it.")] = None
    restart: Annotated[bool | None, Field(description="Read what stays again, in place of keeping its states.")] = None


class Mark(BaseModel):
    """Something that the caller knows of a session."""

    model_config = ConfigDict(extra="forbid", strict=True)

    mark: Annotated[
        Literal["fork", "discard", "boundary"],
        Field(description="Branch off; forget the newest turn; here is a good place to compact."),
    ]
    turn: Annotated[int | None, Field(ge=1, description="Counted from 1; the newest where it is left out.")] = None


@router.get("/sessions", response_model=list[SessionRow], response_class=Json)
def sessions(by: By) -> Response:
    """Lists all sessions of the caller's key."""
    return Json(by.host.sessions(by.key))


@router.get("/events", response_class=Response, responses={200: {"content": EVENTS}})
async def events(request: Request, by: By) -> Response:
    """Streams server-sent events: the list of sessions at once and whenever it has changed, at most twice a second."""
    return Stream(request, _changes(request.app.state, by))


async def _changes(state: State, by: Caller) -> AsyncGenerator[bytes]:
    """Yields the list whenever it has changed; `locked` tells a caller without a key that others have sessions."""

    def look() -> bytes:
        locked = not by.key and by.host.has_other_keys(by.key)
        head = b"event: locked\ndata: true\n\n" if locked else b""
        return head + b"data: " + dumps(by.host.sessions(by.key)) + b"\n\n"

    sent, silence = b"", 0.0
    while not state.stopping:
        rows = await run_in_threadpool(look)
        silence += PAUSE
        if rows != sent:
            yield rows
        elif silence >= HEARTBEAT:
            yield b": still here\n\n"
        else:
            await asyncio.sleep(PAUSE)
            continue
        sent, silence = rows, 0.0
        await asyncio.sleep(PAUSE)


@router.post(
    "/sessions/import",
    status_code=201,
    response_model=SessionRow,
    response_class=Json,
    openapi_extra={"requestBody": {"required": True, "content": FILE}},
)
async def take(request: Request, by: By) -> Response:
    """Imports the file of an export as a session of the caller's key."""
    return Json(await run_in_threadpool(by.host.take, await request.body(), by.key), 201)


@router.get("/sessions/{session}", response_model=SessionDetail, response_class=Json)
def session(
    session: Session, by: By, texts: Annotated[bool, Query(description="false leaves the blocks' texts empty.")] = True
) -> Response:
    """Returns one session: its blocks and their fates, its curve, its events, and what the gate found."""
    found = by.host.session(session, by.key)
    return Json(found if texts else {**found, "blocks": [{**block, "text": ""} for block in found["blocks"]]})


@router.delete("/sessions/{session}", status_code=204, response_class=Response)
def drop(session: Session, by: By) -> Response:
    """Deletes a session, on disk too."""
    by.host.drop(session, by.key)
    return Response(status_code=204)


@router.post("/sessions/{session}/compact", response_model=SessionRow, response_class=Json)
def compact(session: Session, by: By, options: CompactOptions | None = None) -> Response:
    """Compacts now. If it fails, the session stays as it was."""
    return Json(by.host.compact(session, by.key, options.model_dump(exclude_none=True) if options else {}))


@router.post("/sessions/{session}/undo", response_model=SessionRow, response_class=Json)
def undo(session: Session, by: By) -> Response:
    """Takes back the newest compaction."""
    return Json(by.host.undo(session, by.key))


@router.get("/sessions/{session}/turns/{turn}", response_model=RawTurn, response_class=Json)
def expand(session: Session, turn: Number, by: By) -> Response:
    """Returns a turn as it was given, whatever became of it."""
    return Json(by.host.expand(session, by.key, turn))


@router.put("/sessions/{session}/pins/{turn}", response_model=SessionRow, response_class=Json)
def pin(session: Session, turn: Number, by: By) -> Response:
    """Keeps a turn word for word from now on."""
    return Json(by.host.pin(session, by.key, turn, True))


@router.delete("/sessions/{session}/pins/{turn}", response_model=SessionRow, response_class=Json)
def unpin(session: Session, turn: Number, by: By) -> Response:
    """Leaves a turn to the policy again."""
    return Json(by.host.pin(session, by.key, turn, False))


@router.post("/sessions/{session}/marks", response_model=SessionRow, response_class=Json)
def mark(session: Session, mark: Mark, by: By) -> Response:
    """Records what only the caller knows. The row is that of the session that goes on: after `fork`, the new one."""
    return Json(by.host.mark(session, by.key, mark.mark, mark.turn))


@router.get("/sessions/{session}/export", response_class=Response, responses={200: {"content": FILE}})
def export(session: Session, by: By) -> Response:
    """Returns the whole session as one file, for `import` here or elsewhere."""
    name = re.sub(r"[^A-Za-z0-9_-]", "-", session)[:80]
    headers = {"Content-Disposition": f'attachment; filename="{name}.holdfast-session"'}
    return Response(by.host.export(session, by.key), media_type="application/octet-stream", headers=headers)
