"""SWE-agent trajectories (`*.traj`): the "history" is the session.

The "query" of each step in "trajectory" repeats the whole prompt; it is never walked. Models without tool calls
write their action into the text and get the observation as a user message: there the call is made of the recorded
"action", and the observation becomes its result. A demonstration is marked `is_demo` in `extra`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from zlib import crc32

from holdfast.transcript.content import read_content, write_content
from holdfast.transcript.document import Document, Entry, number_entries
from holdfast.transcript.draft import Draft
from holdfast.transcript.formats import openai_chat
from holdfast.transcript.formats.apply_draft import Change, apply_draft, render_file
from holdfast.transcript.formats.text_calls import add_text_calls
from holdfast.transcript.json_fields import copy_object, take_list, text_or_empty
from holdfast.transcript.provider_requests import parse_arguments, to_openai_call
from holdfast.transcript.turn import Role, ToolCall, Transcript, Turn

_MARKS = ("agent", "message_type", "is_demo", "tool_call_ids", "action")


def sniff(document: Document) -> bool:
    value = document.value
    if not isinstance(value, dict) or not isinstance(value.get("history"), list):
        return False
    spoken = [item for item in value["history"] if isinstance(item, dict) and isinstance(item.get("role"), str)]
    return any(mark in item for item in spoken for mark in _MARKS)


def read(document: Document) -> Transcript:
    turns, skipped = document.read_each(entries(document), _turn)
    meta = {key: held for key, held in document.value.items() if key not in ("history", "trajectory")}
    steps = document.value.get("trajectory")
    if isinstance(steps, list):
        meta["steps"] = len(steps)
    return Transcript(add_text_calls(openai_chat.pair_by_order(turns), _action, _call_id), "swe_agent", meta, skipped)


def entries(document: Document) -> tuple[Entry, ...]:
    """Returns the messages of the history."""
    return number_entries(document.value["history"])


def _turn(entry: Entry) -> Turn:
    fields = copy_object(entry.value, "a message")
    call_ids = [id_ for id_ in take_list(fields, "tool_call_ids") if isinstance(id_, str)]
    thoughts = read_content(take_list(fields, "thinking_blocks"))
    turn = openai_chat.turn_of(Entry(entry.number, fields))
    blocks = {"thinking_blocks": thoughts.rest} if thoughts.rest else {}
    reasoning = "\n".join(filter(None, (turn.reasoning, thoughts.reasoning)))
    call_id = turn.call_id or next(iter(call_ids), "") if turn.role is Role.TOOL else ""
    hidden = (*turn.opaque, *thoughts.opaque)
    return replace(turn, reasoning=reasoning, call_id=call_id, extra={**turn.extra, **blocks}, opaque=hidden)


def _call_id(_turn: Turn, action: str) -> str:
    """Returns an id of the action and not of its place, which changes when turns before it go."""
    return f"call_{crc32(action.encode()):08x}"


def _action(turn: Turn) -> str:
    """Returns the action of an assistant turn without tool calls."""
    if turn.role is not Role.ASSISTANT or turn.calls:
        return ""
    return text_or_empty(turn.extra.get("action")).strip()


def write(document: Document, held: Draft) -> str:
    return render_file(document, apply_draft(entries(document), held, _edit, _new), "history")


def _edit(values: list[Any], changes: tuple[Change, ...]) -> Sequence[Any]:
    (value,), (change,) = values, changes
    raw, new = change.raw, change.new
    if raw is None or new is None:
        return values
    if (raw.role, raw.call_id) != (new.role, new.call_id):
        return [_new(new, value)]
    fields = dict(value)
    if new.text != raw.text:
        fields["content"] = write_content(value.get("content"), new.text)
    if new.reasoning != raw.reasoning:
        known = {
            key: held
            for key, held in fields.items()
            if key not in ("thinking_blocks", "reasoning_content", "reasoning")
        }
        fields = {**known, **({"reasoning_content": new.reasoning} if new.reasoning else {})}
    return [fields if new.calls == raw.calls else _with_calls(fields, raw.calls, new.calls)]


def _with_calls(fields: dict[str, Any], raw: Sequence[ToolCall], new: Sequence[ToolCall]) -> dict[str, Any]:
    """Returns the message with these calls. An action in the text takes another command; it cannot hold other calls."""
    wire = fields.get("tool_calls")
    if not wire and [call.id for call in raw] == [call.id for call in new] and (command := _command(new[0])):
        return {**fields, "action": command}
    olds = {call.id: old for call, old in zip(raw, wire, strict=False)} if isinstance(wire, list) else {}
    same = {call.id for call in raw if call in new}
    calls = [olds[call.id] if call.id in olds and call.id in same else to_openai_call(call) for call in new]
    kept = {key: value for key, value in fields.items() if key not in ("tool_calls", "action")}
    return {**kept, **({"tool_calls": calls} if calls else {})}


def _command(call: ToolCall) -> str:
    """Returns the command line of a call that has nothing else, as an action can say it; else empty."""
    given = parse_arguments(call)
    return text_or_empty(given.get("command")).strip() if given.keys() == {"command"} else ""


def _new(turn: Turn, near: Any) -> Any:
    agent = {"agent": near["agent"]} if isinstance(near, dict) and "agent" in near else {}
    fields: dict[str, Any] = {"role": turn.role.value, "content": turn.text, **agent}
    if turn.calls:
        fields["tool_calls"] = list(map(to_openai_call, turn.calls))
    if turn.call_id:
        fields["tool_call_ids"] = [turn.call_id]
    if turn.reasoning:
        fields["reasoning_content"] = turn.reasoning
    return fields
