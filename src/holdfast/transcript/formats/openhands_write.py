"""Writes OpenHands V0 events: changes an action's text and arguments in the model's recorded response too."""

from __future__ import annotations

from itertools import count
from typing import Any

from holdfast.errors import BadInput
from holdfast.transcript.document import Document
from holdfast.transcript.draft import Draft
from holdfast.transcript.formats.apply_draft import Change, apply_draft, match_calls, render_file
from holdfast.transcript.formats.openhands import events, first_message, group_events
from holdfast.transcript.json_fields import text_or_empty, to_json_text
from holdfast.transcript.provider_requests import parse_arguments
from holdfast.transcript.turn import Role, ToolCall, Turn


def write(document: Document, held: Draft) -> str:
    groups, _ = group_events(document)
    entries = events(document)
    ids = [entry.value.get("id") for entry in entries if isinstance(entry.value, dict)]
    fresh = count(1 + max((id_ for id_ in ids if isinstance(id_, int)), default=-1))

    def new(turn: Turn, near: Any) -> dict[str, Any]:
        return {"id": next(fresh), **_message(turn, near)}

    items = apply_draft(entries, held, _edit, new, [numbers for _, numbers in groups])
    return render_file(document, items, key="history")


def _message(turn: Turn, near: Any) -> dict[str, Any]:
    if turn.role is Role.TOOL or turn.calls:
        raise BadInput("OpenHands has no event for a new call or result; fold it into a user turn")
    system = turn.role is Role.SYSTEM
    return {
        **({"timestamp": near["timestamp"]} if isinstance(near, dict) and "timestamp" in near else {}),
        "source": "user" if turn.role is Role.USER else "agent",
        "message": turn.text,
        "action": "system" if system else "message",
        "args": {"content": turn.text},
    }


def _edit(values: list[Any], changes: tuple[Change, ...]) -> list[Any]:
    """Returns the events of one turn after its change: an observation, a message, or the actions of one response."""
    raw, turn = changes[0].raw, changes[0].new
    if raw is None or turn is None:
        raise AssertionError("an event holds one turn, which is dropped whole")
    if raw.role is Role.TOOL:
        return [_observation(values[0], raw, turn)]
    if not raw.calls:
        return [_edit_message(values[0], turn.text)]
    kept, fresh = match_calls(raw.calls, turn.calls)
    if fresh or not any(kept):
        return [{"id": values[0].get("id"), **_message(turn, values[0])}, *[None] * (len(values) - 1)]
    left = [_action(value, raw, turn, call) for value, call in zip(values, kept, strict=True) if call]
    # What is left moves up: the turn stands where its first action stood, before the results.
    return [*left, *[None] * (len(values) - len(left))]


def _observation(event: dict[str, Any], raw: Turn, turn: Turn) -> dict[str, Any]:
    if raw.text == turn.text:
        return event
    extras = event.get("extras")
    shell = extras.get("metadata") if isinstance(extras, dict) else None
    if not isinstance(extras, dict) or not isinstance(shell, dict):
        return {**event, "content": turn.text}
    before, after = (f"{shell.get(key) or ''}" for key in ("prefix", "suffix"))
    text = turn.text
    if text.startswith(before) and text.endswith(after) and len(text) >= len(before) + len(after):
        return {**event, "content": text[len(before) : len(text) - len(after)]}
    bare = {key: "" if key in ("prefix", "suffix") else value for key, value in shell.items()}
    return {**event, "content": text, "extras": {**extras, "metadata": bare}}


def _edit_message(event: dict[str, Any], text: str) -> dict[str, Any]:
    args = dict(event.get("args") or {})
    if event["action"] in ("system", "message"):
        return {**event, "args": {**args, "content": text}}
    # What finishes a session has a thought and a last word, which are read as one text.
    rest = {key: "" for key in ("thought", "final_thought") if key in args}
    key = "final_thought" if "final_thought" in args else "thought"
    return {**event, "args": {**args, **rest, key: text}}


def _action(event: dict[str, Any], raw: Turn, turn: Turn, call: ToolCall) -> dict[str, Any]:
    args = dict(event.get("args") or {})
    old = next(old for old in raw.calls if old.id == call.id)
    if old.arguments != call.arguments:
        args = {**({"thought": args["thought"]} if "thought" in args else {}), **parse_arguments(call)}
    if raw.text != turn.text:
        args["thought"] = turn.text
    made = {**event, "args": args}
    record = event.get("tool_call_metadata")
    response = record.get("model_response") if isinstance(record, dict) else None
    if not isinstance(record, dict) or not isinstance(response, dict) or not first_message(response):
        return made
    first, *rest = response["choices"]
    sent = _edit_response({**first["message"]}, raw, turn)
    choices = [{**first, "message": sent}, *rest]
    return {**made, "tool_call_metadata": {**record, "model_response": {**response, "choices": choices}}}


def _edit_response(message: dict[str, Any], raw: Turn, turn: Turn) -> dict[str, Any]:
    """Returns the model's message with the turn's text, reasoning and calls."""
    if raw.text != turn.text and isinstance(message.get("content"), str):
        message["content"] = turn.text
    if raw.reasoning != turn.reasoning:
        message["reasoning_content"] = turn.reasoning
    now = {call.id: call.arguments for call in turn.calls}
    gone = {call.id for call in raw.calls} - now.keys()
    if isinstance(message.get("tool_calls"), list):
        calls = [call for call in message["tool_calls"] if _id(call) not in gone]
        message["tool_calls"] = [_put_arguments(call, now) for call in calls]
    return message


def _id(call: Any) -> str:
    return text_or_empty(call.get("id")) if isinstance(call, dict) else ""


def _put_arguments(call: Any, now: dict[str, str]) -> Any:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict):
        return call
    arguments = now.get(_id(call))
    if arguments is None or to_json_text(function.get("arguments")) == arguments:
        return call
    return {**call, "function": {**function, "arguments": arguments}}
