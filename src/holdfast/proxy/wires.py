"""The wires whose requests carry a history: where it stands in a body, read as turns and written back.

The system prompt at the head is no part of what is read: it goes through as it stands, and one that changes from
request to request (a date, a build number) does not make another history.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any

from holdfast.adapters.compactor import View
from holdfast.adapters.messages import message_of, turns_of
from holdfast.transcript.document import Document
from holdfast.transcript.draft import Draft
from holdfast.transcript.formats import anthropic, anthropic_write, gemini_cli, gemini_cli_write, openai_responses
from holdfast.transcript.turn import Role, Transcript, Turn

Body = dict[str, Any]


@dataclass(frozen=True)
class History:
    """The turns that a request carries of its session."""

    turns: tuple[Turn, ...]
    """Without the system prompt at the head."""
    write: Callable[[View], list[Any]]
    """The whole list of the wire with the turns of a view; what nothing touched is the very object that was read."""


@dataclass(frozen=True)
class Wire:
    """One kind of request."""

    name: str
    paths: tuple[str, ...]
    """The ends of the paths of its requests."""
    field: str
    """The field of the body that holds the history."""
    read: Callable[[Body], History | None]
    """None if the request does not carry its history. Raises MalformedEntry or BadTranscript for a broken history."""
    around: tuple[str, ...]
    """The fields of the body whose text stands before every history."""


def _chat(body: Body) -> History | None:
    messages = body.get("messages")
    if not isinstance(messages, list):
        return None
    turns = turns_of(messages)
    head = _head(turns)
    rest = messages[head:]
    return History(turns[head:], lambda view: [*messages[:head], *view.build(rest, message_of)])


def _messages(body: Body) -> History | None:
    messages = body.get("messages")
    if not isinstance(messages, list) or any(map(_holds_compaction, messages)):
        return None
    document = Document("", value=messages)
    turns = anthropic.read(document).turns
    raw = Transcript(turns[_head(turns) :], "anthropic")

    def write(view: View) -> list[Any]:
        return [item.value for item in anthropic_write.items(document, _draft_of(view, raw))]

    return History(raw.turns, write)


def _responses(body: Body) -> History | None:
    items = body.get("input")
    if not isinstance(items, list) or body.get("previous_response_id") or body.get("conversation"):
        return None
    if any(map(_stands_for_history, items)):
        return None
    document = Document("", value=items)
    read, _ = document.read_each(document.entries, openai_responses.read_item)
    said = openai_responses.group_items(read)
    head = _head([one.turn for one in said])
    first = [item.value for one in said[:head] for item in one.items]
    raw = Transcript(tuple(one.turn for one in said[head:]), "openai_responses")

    def write(view: View) -> list[Any]:
        return [*first, *openai_responses.items_of_draft(_draft_of(view, raw), said[head:])]

    return History(raw.turns, write)


def _gemini(body: Body) -> History | None:
    contents = body.get("contents")
    if not isinstance(contents, list):
        return None
    document = Document("", value=contents)
    raw = gemini_cli.read(document)
    return History(raw.turns, lambda view: gemini_cli_write.content_items(document, _draft_of(view, raw)))


def _head(turns: Iterable[Turn]) -> int:
    return sum(1 for _ in takewhile(lambda turn: turn.role is Role.SYSTEM, turns))


def _draft_of(view: View, raw: Transcript) -> Draft:
    """Returns the view as a draft of the history as it was handed over."""
    if all(at == place for at, place in view.places.items()):
        return Draft(raw, view.pieces)

    def places(turns: Sequence[int]) -> tuple[int, ...]:
        return tuple(view.places[at] for at in turns if at in view.places)

    return Draft(raw, tuple(replace(piece, turns=places(piece.turns)) for piece in view.pieces))


def _holds_compaction(message: Any) -> bool:
    """Returns True if a message holds the provider's own compaction, which only the provider can read."""
    content = message.get("content") if isinstance(message, dict) else None
    blocks = content if isinstance(content, list) else []
    return any(isinstance(block, dict) and str(block.get("type")).startswith("compaction") for block in blocks)


def _stands_for_history(item: Any) -> bool:
    """Returns True if an item stands for a history that only the provider can read."""
    kind = str(item.get("type")) if isinstance(item, dict) else ""
    return kind == "item_reference" or kind.startswith(("compaction", "context_compaction"))


WIRES = (
    Wire("openai_chat", ("/chat/completions",), "messages", _chat, ("tools",)),
    Wire("anthropic", ("/messages",), "messages", _messages, ("system", "tools")),
    Wire("openai_responses", ("/responses",), "input", _responses, ("instructions", "tools")),
    Wire("gemini", (":generateContent", ":streamGenerateContent"), "contents", _gemini, ("systemInstruction", "tools")),
)
_NAMED = re.compile(r"/models/([^/:]+):")
"""A model in the path of a Gemini request."""


def wire_of(method: str, path: str) -> Wire | None:
    """Returns the wire of a request that may carry a history, or None."""
    return next((wire for wire in WIRES if method == "POST" and path.endswith(wire.paths)), None)


def model_of(body: Body, path: str) -> str:
    """Returns the name of the model that a request asks; empty if it names none."""
    match = _NAMED.search(path)
    return match[1] if match else str(body.get("model") or "")


def instructions_of(wire: Wire, body: Body) -> str:
    """Returns the text that stands before the history of a request: system prompt and tools, as JSON."""
    items = body.get(wire.field)
    head = takewhile(_is_system, items) if wire.name != "gemini" and isinstance(items, list) else ()
    parts = [*(body[name] for name in wire.around if body.get(name)), *head]
    return json.dumps(parts, ensure_ascii=False) if parts else ""


def _is_system(item: Any) -> bool:
    return isinstance(item, dict) and item.get("role") in ("system", "developer")


def error_body(status: int, message: str, like_anthropic: bool, like_gemini: bool = False) -> Body:
    """Returns an error of the proxy's own, in the shape that the provider's clients know."""
    kinds = {403: "permission_error", 413: "request_too_large", 429: "rate_limit_error", 504: "timeout_error"}
    kind = kinds.get(status, "invalid_request_error" if status in (400, 408) else "api_error")
    if like_gemini:
        known = {400: "INVALID_ARGUMENT", 403: "PERMISSION_DENIED", 429: "RESOURCE_EXHAUSTED", 504: "DEADLINE_EXCEEDED"}
        return {"error": {"code": status, "message": message, "status": known.get(status, "UNAVAILABLE")}}
    if like_anthropic:
        return {"type": "error", "error": {"type": kind, "message": message}}
    return {"error": {"message": message, "type": kind, "param": None, "code": None}}
