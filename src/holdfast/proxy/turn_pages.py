"""Raw turns of the journal over HTTP: `/holdfast/turns/SESSION/31`, also `31-35`, and a table of contents without.

Plain text for an agent's shell (`curl -s`), JSON where it is asked for. A session's id is the right to read it; from
another machine it takes the session's key besides.
"""

from __future__ import annotations

import re

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from holdfast.errors import Missing
from holdfast.proxy.headers import Scope, caller_digest
from holdfast.proxy.journal import Journal, JournalSession
from holdfast.proxy.options import is_loopback
from holdfast.proxy.wires import error_body
from holdfast.text.file_log.describe import turn_label, turn_lines
from holdfast.transcript.draft import turn_size
from holdfast.transcript.token_estimate import estimate_tokens
from holdfast.transcript.turn import Turn
from holdfast.web.pages import PAGE_HEADERS

PATH = "/holdfast/turns"
_BEGIN = 100  # characters of a turn in the table of contents
_RANGE = re.compile(r"(\d{1,9})(?:-(\d{1,9}))?")


def lookup_words(scope: Scope, session: str) -> str:
    """Returns the words that tell an agent how to read a turn of its session in full."""
    host, port = scope.get("server") or ("127.0.0.1", None)
    shown = f"[{host}]" if ":" in host else host
    address = f"http://{shown}" + (f":{port}" if port else "")
    return f"Turn N in full (`holdfast expand N`): `curl -s {address}{PATH}/{session}/N`"


class TurnPages:
    """The endpoint of one journal."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    async def answer(self, request: Request) -> Response:
        """Sends a turn, a range of turns or the table of contents. 404 for what the journal does not hold."""
        try:
            session = self._journal.session(request.path_params["session"])
            local = request.client is not None and is_loopback(request.client.host)
            if not local and caller_digest(dict(request.scope)) != session.key:
                raise Missing("this session is another key's; send its own key")
            return _show(session, request.path_params.get("turns", ""), _wants_json(request))
        except Missing as error:
            return JSONResponse(error_body(404, str(error), False), 404)


def _wants_json(request: Request) -> bool:
    return "json" in request.headers.get("accept", "")


def _show(session: JournalSession, asked: str, as_json: bool) -> Response:
    match = _RANGE.fullmatch(asked) if asked else None
    if asked and not match:
        raise Missing(f"turns are asked for as 31 or 31-35, got {asked[:40]!r}")
    numbers = range(int(match[1]), int(match[2] or match[1]) + 1) if match else range(1, len(session.turns) + 1)
    if len(numbers) > len(session.turns):
        raise Missing(f"the session has the turns 1 to {len(session.turns)}, got {asked}; ask for some of these")
    turns = [(number, session.turn(number)) for number in numbers]
    if as_json:
        rows = [_row(number, turn, whole=match is not None) for number, turn in turns]
        return JSONResponse({"session": session.id, "turns": rows}, headers=PAGE_HEADERS)
    lines = (_whole(number, turn) if match else _entry(number, turn) for number, turn in turns)
    return PlainTextResponse("\n".join(lines) + "\n", headers=PAGE_HEADERS)


def _whole(number: int, turn: Turn) -> str:
    return "\n".join([f"== {turn_label(number, turn)}", *(text for text, _ in turn_lines(turn))])


def _entry(number: int, turn: Turn) -> str:
    text = next((text for text, _ in turn_lines(turn) if text.strip()), "")
    return f"{turn_label(number, turn)}, {turn_size(turn, estimate_tokens)} tokens: {text[:_BEGIN]}"


def _row(number: int, turn: Turn, whole: bool) -> dict[str, object]:
    row: dict[str, object] = {"turn": number, "role": turn.role.value, "tokens": turn_size(turn, estimate_tokens)}
    if not whole:
        return {**row, "text": turn.text[:_BEGIN]}
    calls = [{"id": call.id, "name": call.name, "arguments": call.arguments} for call in turn.calls]
    return {**row, "text": turn.text, "reasoning": turn.reasoning, "calls": calls}
