"""Writes Gemini CLI sessions: the messages that stand, each result in both places where the program records it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from holdfast.transcript.document import Document, Entry
from holdfast.transcript.draft import Draft
from holdfast.transcript.formats.apply_draft import (
    Change,
    apply_draft,
    input_like,
    pack_entries,
    render_file,
    unpack_entries,
)
from holdfast.transcript.formats.gemini_cli import find_spoken, is_beside, is_content, lay_out_history, live_entries
from holdfast.transcript.json_fields import copy_object, text_or_empty, to_json_text
from holdfast.transcript.provider_requests import parse_arguments
from holdfast.transcript.turn import Role, ToolCall, Turn


def write(document: Document, held: Draft) -> str:
    """Writes the session with its changes in place. Messages that a log had taken back or replaced do not come back."""
    if held.turns == held.raw.turns and not document.left_out:
        return document.text
    document = lay_out_history(document)
    live, _ = live_entries(document)
    heads = [entry for entry in document.lines if is_beside(entry.value)]
    # Numbered anew, since in a log the order is that of the messages' first lines.
    kept = [*heads, *live]
    entries_ = [Entry(at, entry.value) for at, entry in enumerate(kept, 1)]
    place = {entry.number: at for at, entry in enumerate(kept, 1)}
    where = [tuple(place[number] for number in numbers) for _, numbers in find_spoken(document, live)[0]]
    record = not any(isinstance(entry.value, dict) and is_content(entry.value) for entry in live)
    items = unpack_entries(entries_, apply_draft(entries_, held, _edit, _new_record if record else _new_content, where))
    items = [replace(item, number=kept[item.number - 1].number if item.number else 0) for item in items]
    if record:
        items = [replace(item, value=_with_id(item.value, at)) for at, item in enumerate(items)]
    key = "history" if isinstance(document.value, dict) and "messages" not in document.value else "messages"
    return render_file(document, items, key)


def content_items(document: Document, held: Draft) -> list[Any]:
    """Returns a request's contents with the changes of a draft; an untouched one is the very value that was read."""
    items = apply_draft(document.entries, held, _edit, _new_content)
    return [item.value for item in unpack_entries(document.entries, items)]


def _with_id(value: Any, at: int) -> Any:
    """Gives a new record an id of its own."""
    return value if not isinstance(value, dict) or value.get("id", True) else {**value, "id": f"holdfast-{at}"}


def _edit(values: list[Any], changes: tuple[Change, ...]) -> Sequence[Any]:
    value, *echoes = values
    if "parts" in value:
        return [*pack_entries(_edit_content(value, changes), 1), *echoes]
    # In a restated history the calls are in the content, and their results are messages of their own.
    first = _edit_echo if _has_response(value) else _edit_record
    return [first(value, changes), *(_edit_echo(echo, changes) for echo in echoes)]


def _has_response(value: dict[str, Any]) -> bool:
    content = value.get("content")
    return isinstance(content, list) and any(isinstance(part, dict) and "functionResponse" in part for part in content)


def _edit_echo(value: dict[str, Any], changes: tuple[Change, ...]) -> Any:
    """Returns the message that repeats results, so that it says what they say now; None if nothing is left of it."""
    results = {change.raw.call_id: change for change in changes if change.raw and change.raw.role is Role.TOOL}
    content = value.get("content")
    words: list[Any] = []
    made: list[Any] = []
    for part in content if isinstance(content, list) else [content]:
        response = part.get("functionResponse") if isinstance(part, dict) else None
        if not isinstance(part, dict) or not isinstance(response, dict):
            words.append(part)
            continue
        change = results.get(text_or_empty(response.get("id")))
        if change is None or change.new == change.raw:
            made.append(part)
        elif change.new is not None:
            made.append(_edit_response(part, change.new, text_or_empty(response.get("name"))))
    said = next((change for change in changes if change.raw and change.raw.role is Role.USER), None)
    if said and said.raw and said.new != said.raw:
        words = _edit_parts(words, said.raw, said.new) if said.new else []
    return {**value, "content": [*made, *words]} if made or words else None


def _edit_record(value: dict[str, Any], changes: tuple[Change, ...]) -> Any:
    """Returns a recorded message after its changes: the results stay with their calls."""
    said = next(change for change in changes if change.raw and change.raw.role is not Role.TOOL)
    if said.raw is None or said.new is None:
        return None
    fields = dict(value)
    parts = value.get("content")
    if isinstance(parts, list) and any(_is_sent_part(part) for part in parts):
        fields["content"] = _edit_parts(parts, said.raw, said.new)
    elif said.new.text != said.raw.text:
        fields["content"] = said.new.text
    if said.new.reasoning != said.raw.reasoning:
        fields["thoughts"] = [{"subject": said.new.reasoning}] if said.new.reasoning else []
    results = {change.new.call_id: change for change in changes if change.new and change.new.call_id}
    olds = {call["id"]: call for call in value.get("toolCalls") or []}
    if olds or said.new.calls:
        fields["toolCalls"] = [_edit_call(olds.get(c.id, {}), c, results.get(c.id)) for c in said.new.calls]
    return fields


def _is_sent_part(part: Any) -> bool:
    return isinstance(part, dict) and ("functionCall" in part or part.get("thought") is True)


def _edit_call(old: dict[str, Any], call: ToolCall, result: Change | None) -> dict[str, Any]:
    fields = {**old, "id": call.id, "name": call.name}
    if to_json_text(old.get("args", {})) != call.arguments:
        fields["args"] = input_like(old.get("args"), call)
    if result and result.new and result.new != result.raw:
        fields["result"] = [_response_part(result.new, call.name)]
        fields.pop("resultDisplay", None)
    return fields


def _response_part(turn: Turn, name: str) -> dict[str, Any]:
    id_ = {"id": turn.call_id} if turn.call_id else {}
    key = "error" if turn.is_error else "output"
    return {"functionResponse": {**id_, "name": name, "response": {key: turn.text}}}


def _edit_content(value: dict[str, Any], changes: tuple[Change, ...]) -> list[Any]:
    """Returns a message of a checkpoint after its changes. A new turn inside it splits it, so that it stays a turn of
    its own.
    """
    responses = iter([part for part in value["parts"] if "functionResponse" in copy_object(part, "a part")])
    rest = [part for part in value["parts"] if "functionResponse" not in part]
    messages: list[Any] = [{**value, "parts": []}]
    for change in changes:
        part = next(responses) if change.raw and change.raw.role is Role.TOOL else None
        if change.raw is None and change.new is not None:
            messages += [_new_content(change.new, value), {**value, "parts": []}]
        elif change.new is not None and part is not None:
            name = text_or_empty(part["functionResponse"].get("name"))
            messages[-1]["parts"] += [part if change.new == change.raw else _edit_response(part, change.new, name)]
        elif change.new is not None and change.raw is not None:
            messages[-1]["parts"] += rest if change.new == change.raw else _edit_parts(rest, change.raw, change.new)
    return [message for message in messages if message["parts"]]


def _edit_response(part: dict[str, Any], turn: Turn, name: str) -> dict[str, Any]:
    made = _response_part(turn, name)["functionResponse"]
    # An id that was made up for pairing is none of the file.
    made = made if "id" in part["functionResponse"] else {key: value for key, value in made.items() if key != "id"}
    return {**part, "functionResponse": made}


def _edit_parts(parts: Sequence[dict[str, Any]], raw: Turn, new: Turn) -> list[Any]:
    calls = [part for part in parts if "functionCall" in part]
    thoughts = [part for part in parts if part.get("thought") is True]
    words = [part for part in parts if part not in calls and part not in thoughts]
    if new.text != raw.text:
        words = [{"text": new.text}] if new.text else []
    if new.reasoning != raw.reasoning:
        thoughts = [{"text": new.reasoning, "thought": True}] if new.reasoning else []
    olds = {call.id: part for call, part in zip(raw.calls, calls, strict=False)}
    same = {call.id for call in raw.calls if call in new.calls}
    now = [
        olds[c.id] if c.id in same else _edit_call_part(olds[c.id], c) if c.id in olds else _call_part(c)
        for c in new.calls
    ]
    return [*thoughts, *words, *now]


def _edit_call_part(part: dict[str, Any], call: ToolCall) -> dict[str, Any]:
    """Returns the part with other arguments; a signature stands beside the call, and without it the call is refused."""
    old = part["functionCall"]
    return {**part, "functionCall": {**old, "args": input_like(old.get("args"), call)}}


def _call_part(call: ToolCall) -> dict[str, Any]:
    return {"functionCall": {"id": call.id, "name": call.name, "args": parse_arguments(call)}}


def _new_content(turn: Turn, _near: Any) -> Any:
    if turn.role is Role.TOOL and turn.call_id:
        return {"role": "user", "parts": [_response_part(turn, "tool")]}
    role = "model" if turn.role is Role.ASSISTANT else "user"
    return {"role": role, "parts": [*([{"text": turn.text}] if turn.text else []), *map(_call_part, turn.calls)]}


def _new_record(turn: Turn, near: Any) -> Any:
    stamp = {"timestamp": near["timestamp"]} if isinstance(near, dict) and "timestamp" in near else {}
    fields = {"id": "", **stamp, "type": "gemini" if turn.role is Role.ASSISTANT else "user", "content": turn.text}
    calls = [{"id": call.id, "name": call.name, "args": parse_arguments(call)} for call in turn.calls]
    return {**fields, **({"toolCalls": calls} if calls else {})}
