"""Writes OpenAI chat messages: a changed message keeps every field but those that the change concerns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from holdfast.transcript.content import write_content
from holdfast.transcript.document import Document
from holdfast.transcript.draft import Draft
from holdfast.transcript.formats.apply_draft import Change, apply_draft, match_calls, render_file, replace_blocks
from holdfast.transcript.json_fields import to_json_text
from holdfast.transcript.provider_requests import to_openai_call, to_openai_message
from holdfast.transcript.turn import ToolCall, Turn

_REASONING = ("reasoning_content", "reasoning")


def write(document: Document, held: Draft) -> str:
    return render_file(document, apply_draft(document.entries, held, edit, new))


def new(turn: Turn, _near: Any) -> dict[str, Any]:
    return to_openai_message(turn)


def edit(values: list[Any], changes: tuple[Change, ...]) -> list[Any]:
    """Returns the changed message; a message holds one turn."""
    ((raw, turn),) = [(change.raw, change.new) for change in changes]
    if raw is None or turn is None:
        raise AssertionError("a message of one turn is dropped whole, and holds nothing new")
    return [put_message(values[0], raw, turn)]


def put_message(value: dict[str, Any], raw: Turn, turn: Turn) -> dict[str, Any]:
    """Changes the message that read as `raw` so that it reads as `turn`."""
    message = dict(value)
    if raw.reasoning != turn.reasoning:
        _put_reasoning(message, turn.reasoning)
    if raw.calls != turn.calls:
        _put_calls(message, raw.calls, turn.calls)
    if raw.text != turn.text:
        if message.get("refusal"):
            message["refusal"] = None
        message["content"] = write_content(message.get("content"), turn.text)
    return message


def _put_reasoning(message: dict[str, Any], reasoning: str) -> None:
    """Writes the reasoning under the name that the server uses; parts of the content that held it go."""
    names = [name for name in _REASONING if message.get(name)] or [_REASONING[0]]
    for name in (*_REASONING, "reasoning_details"):
        if name not in names or not reasoning:
            message.pop(name, None)
    message.update(dict.fromkeys(names, reasoning) if reasoning else {})
    if isinstance(message.get("content"), list):
        message["content"] = replace_blocks(message["content"], thinking=False)


def _put_calls(message: dict[str, Any], raw: Sequence[ToolCall], calls: Sequence[ToolCall]) -> None:
    """Writes the calls: those that stay keep their fields, new ones are appended."""
    kept, fresh = match_calls(raw, calls)
    wire = message.get("tool_calls") or []
    made = [put_call(old, call) for old, call in zip(wire, kept, strict=False) if call]
    rest = kept[len(wire) :]
    if message.get("function_call") is not None:
        legacy = rest.pop(0)
        if legacy is None:
            del message["function_call"]
        else:
            message["function_call"] = _put_body(message["function_call"], "arguments", legacy)
    if isinstance(message.get("content"), list):
        message["content"] = replace_blocks(message["content"], calls=rest)
    if made or fresh:
        message["tool_calls"] = [*made, *map(to_openai_call, fresh)]
    else:
        message.pop("tool_calls", None)


def put_call(old: dict[str, Any], call: ToolCall) -> dict[str, Any]:
    """Returns a call on the wire with other arguments, of either kind."""
    key, field = ("custom", "input") if old.get("type") == "custom" else ("function", "arguments")
    body = _put_body(old[key], field, call)
    return old if body is old[key] else {**old, key: body}


def _put_body(body: dict[str, Any], field: str, call: ToolCall) -> dict[str, Any]:
    same = to_json_text(body.get(field)) == call.arguments and body.get("name") == call.name
    return body if same else {**body, "name": call.name, field: call.arguments}
