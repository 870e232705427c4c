"""Gemini CLI sessions: recorded chats (one JSON, or lines), and checkpoints (a list of `{role, parts}`).

A recorded reply holds its calls together with their results: it becomes an assistant turn and its tool turns. In
a log of lines the last line with an id stands, `$rewindTo` takes back what came after, `$set` changes the head.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from zlib import crc32

from holdfast.transcript.document import Document, Entry, MalformedEntry, number_entries
from holdfast.transcript.draft import Draft
from holdfast.transcript.formats.apply_draft import (
    Change,
    apply_draft,
    input_like,
    pack_entries,
    render_file,
    unpack_entries,
)
from holdfast.transcript.formats.openai_chat import pair_by_order
from holdfast.transcript.json_fields import (
    copy_object,
    take_list,
    take_required_text,
    take_text,
    text_or_empty,
    to_json_text,
)
from holdfast.transcript.provider_requests import parse_arguments
from holdfast.transcript.turn import Role, ToolCall, Transcript, Turn

_SPOKEN = {"user": Role.USER, "gemini": Role.ASSISTANT, "model": Role.ASSISTANT}
_NOTES = ("info", "error", "warning")
_BAD = ("error", "cancelled", "canceled")


def sniff(document: Document) -> bool:
    values = [entry.value for entry in entries(document) if isinstance(entry.value, dict)]
    return any(map(is_content, values)) or any(map(_is_record, values)) or _is_head(document.value)


def is_content(value: dict[str, Any]) -> bool:
    """Returns True for a message of a checkpoint."""
    return value.get("role") in ("user", "model") and isinstance(value.get("parts"), list)


def _is_record(value: dict[str, Any]) -> bool:
    type_ = value.get("type")
    spoken = type_ == "gemini" or (type_ == "user" and "content" in value)
    return (spoken and "id" in value) or _is_head(value)


def _is_head(value: object) -> bool:
    return isinstance(value, dict) and "sessionId" in value and "projectHash" in value


def entries(document: Document) -> tuple[Entry, ...]:
    """Returns the records or messages."""
    if isinstance(document.value, dict) and "messages" not in document.value:
        return number_entries(document.value.get("history"))
    return document.entries


def read(document: Document) -> Transcript:
    live, meta = live_entries(document)
    groups, skipped = document.read_each(live, turns_of)
    turns = pair_by_order(turn for group in groups for turn in group)
    notes = Counter(text_or_empty(e.value.get("type")) for e in live if isinstance(e.value, dict) and _is_note(e.value))
    if notes:
        meta["other_messages"] = dict(notes)
    return Transcript(turns, "gemini_cli", meta, skipped)


def _is_note(value: dict[str, Any]) -> bool:
    return value.get("type") in _NOTES


def live_entries(document: Document) -> tuple[tuple[Entry, ...], dict[str, Any]]:
    """Returns the messages that stand, and the fields beside them."""
    if not document.lines:
        value = document.value if isinstance(document.value, dict) else {}
        return entries(document), {key: held for key, held in value.items() if key not in ("messages", "history")}
    meta: dict[str, Any] = {}
    live: dict[str, Entry] = {}
    said: list[int] = []
    broken = tuple(entry for entry in document.lines if not isinstance(entry.value, dict))
    for entry in document.lines:
        value = entry.value
        if not isinstance(value, dict):
            continue
        if isinstance(value.get("$rewindTo"), str):
            live = _rewind(live, value["$rewindTo"])
        elif isinstance(value.get("$set"), dict):
            meta |= value["$set"]
        elif _is_head(value):
            meta |= value
        else:
            said.append(entry.number)
            live[text_or_empty(value.get("id")) or f"line {entry.number}"] = entry
    gone = sorted(set(said) - {entry.number for entry in live.values()})
    # A broken line is refused or named even where a rewind would have taken it back.
    return (*broken, *live.values()), {**meta, **({"abandoned_lines": gone} if gone else {})}


def _rewind(live: dict[str, Entry], id_: str) -> dict[str, Entry]:
    """Returns the messages before the one with this id; none if no message has it."""
    kept: dict[str, Entry] = {}
    for key, entry in live.items():
        if key == id_:
            return kept
        kept[key] = entry
    return {}


def turns_of(entry: Entry) -> tuple[Turn, ...]:
    """Returns the turns of one record or message; none for a note of the program."""
    fields = copy_object(entry.value, "a message")
    if _is_note(fields):
        return ()
    content = isinstance(fields.get("parts"), list)
    name = take_required_text(fields, "role" if content else "type", "a message")
    if name not in _SPOKEN:
        raise MalformedEntry(f'expected the speaker to be one of {", ".join(_SPOKEN)}, got "{name[:40]}"')
    folded = read_gemini_parts(take_list(fields, "parts") if content else fields.pop("content", None))
    thoughts = [_thought(thought) for thought in take_list(fields, "thoughts")]
    made = [] if content else [_record_call(call) for call in take_list(fields, "toolCalls")]
    calls = (*folded.calls, *(call for call, _ in made))
    reasoning = "\n".join(filter(None, (*thoughts, *folded.thoughts)))
    results = [replace(turn, source=entry.number) for turn in (*folded.results, *(result for _, result in made))]
    extra = {**fields, **({"parts": folded.rest} if folded.rest else {})}
    said = Turn(
        _SPOKEN[name], "\n".join(filter(None, folded.texts)), reasoning, calls, source=entry.number, extra=extra
    )
    if name == "user":
        # Results stand before what the user adds to them.
        return (*results, said) if said.text or not results else tuple(results)
    return (said, *results)


@dataclass
class GeminiContent:
    """The texts, thoughts, calls and results of a message's parts."""

    texts: list[str] = field(default_factory=list)
    thoughts: list[str] = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)
    results: list[Turn] = field(default_factory=list)
    rest: dict[str, Any] = field(default_factory=dict)
    """Position of the part to the fields that were not understood."""


def read_gemini_parts(content: object) -> GeminiContent:
    """Reads a string, one part, or a list of parts."""
    folded = GeminiContent()
    for position, part in enumerate(content if isinstance(content, list) else [content]):
        fields = {"text": part} if isinstance(part, str) or part is None else copy_object(part, "a part")
        _read_part(fields, folded)
        if fields:
            folded.rest[str(position)] = fields
    return folded


def _read_part(fields: dict[str, Any], folded: GeminiContent) -> None:
    """Takes from `fields` what it understood."""
    if "functionCall" in fields:
        call = copy_object(fields.pop("functionCall"), '"functionCall"')
        name, id_ = take_required_text(call, "name", "a functionCall"), take_text(call, "id")
        arguments = to_json_text(call.pop("args", {}))
        # Of the call and not of its place, which changes when turns before it go.
        made = f"call_{crc32(f'{name} {arguments}'.encode()):08x}_{len(folded.calls)}"
        folded.calls.append(ToolCall(id_ or made, name, arguments))
    elif "functionResponse" in fields:
        folded.results.append(_response(copy_object(fields.pop("functionResponse"), '"functionResponse"')))
    elif "text" in fields:
        text = take_text(fields, "text")
        (folded.thoughts if fields.get("thought") is True else folded.texts).append(text)
    elif fields:
        folded.texts.append(f"[{next(iter(fields))}]")


def _response(fields: dict[str, Any]) -> Turn:
    """Returns a result, its text the "output" or "error" if it has one, else the whole as JSON."""
    response = fields.pop("response", None)
    held = dict(response) if isinstance(response, dict) else {}
    key = next((key for key in ("output", "error") if isinstance(held.get(key), str)), "")
    text = held.pop(key) if key else to_json_text(response)
    extra = {**fields, **({"response": held} if key and held else {})}
    call_id = take_text(extra, "id")
    return Turn(Role.TOOL, text, call_id=call_id, is_error=key == "error", extra=extra)


def _record_call(value: object) -> tuple[ToolCall, Turn]:
    """Returns a recorded call and its result. A call that was cut off has an empty result, because it is replayed with
    one.
    """
    fields = copy_object(value, "a tool call")
    call_id, name = take_required_text(fields, "id", "a tool call"), take_required_text(fields, "name", "a tool call")
    call = ToolCall(call_id, name, to_json_text(fields.pop("args", {})))
    folded = read_gemini_parts(fields.pop("result", None))
    if folded.calls:
        raise MalformedEntry("expected the result of a tool call to hold no functionCall")
    texts = [*(turn.text for turn in folded.results), *folded.texts, *folded.thoughts]
    beside = [
        {key: held for key, held in turn.extra.items() if (key, held) != ("name", name)} for turn in folded.results
    ]
    bad = fields.get("status") in _BAD or any(turn.is_error for turn in folded.results)
    extra = {**fields, **({"parts": folded.rest} if folded.rest else {})}
    extra |= {"responses": beside} if any(beside) else {}
    return call, Turn(Role.TOOL, "\n".join(filter(None, texts)), call_id=call_id, is_error=bad, extra=extra)


def _thought(value: object) -> str:
    if not isinstance(value, dict):
        return text_or_empty(value)
    return "\n".join(filter(None, (text_or_empty(value.get(key)) for key in ("subject", "description"))))


def write(document: Document, held: Draft) -> str:
    """Writes the session with its changes in place. Messages that a log had taken back or replaced do not come back."""
    if held.turns == held.raw.turns and not document.left_out:
        return document.text
    live, _ = live_entries(document)
    heads = [entry for entry in document.lines if _is_beside(entry.value)]
    # Numbered anew, since in a log the order is that of the messages' first lines.
    kept = [*heads, *live]
    entries_ = [Entry(at, entry.value) for at, entry in enumerate(kept, 1)]
    place = {entry.number: at for at, entry in enumerate(kept, 1)}
    where = [(place[turn.source],) for turn in held.raw.turns]
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


def _is_beside(value: object) -> bool:
    return isinstance(value, dict) and (_is_head(value) or isinstance(value.get("$set"), dict))


def _with_id(value: Any, at: int) -> Any:
    """Gives a new record an id of its own."""
    return value if not isinstance(value, dict) or value.get("id", True) else {**value, "id": f"holdfast-{at}"}


def _edit(values: list[Any], changes: tuple[Change, ...]) -> Sequence[Any]:
    (value,) = values
    return [_edit_record(value, changes)] if "parts" not in value else pack_entries(_edit_content(value, changes), 1)


def _edit_record(value: dict[str, Any], changes: tuple[Change, ...]) -> Any:
    """Returns a recorded message after its changes: the results stay with their calls."""
    said = next(change for change in changes if change.raw and change.raw.role is not Role.TOOL)
    if said.raw is None or said.new is None:
        return None
    fields = dict(value)
    if said.new.text != said.raw.text:
        fields["content"] = said.new.text
    if said.new.reasoning != said.raw.reasoning:
        fields["thoughts"] = [{"subject": said.new.reasoning}] if said.new.reasoning else []
    results = {change.new.call_id: change for change in changes if change.new and change.new.call_id}
    olds = {call["id"]: call for call in value.get("toolCalls") or []}
    if olds or said.new.calls:
        fields["toolCalls"] = [_edit_call(olds.get(c.id, {}), c, results.get(c.id)) for c in said.new.calls]
    return fields


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
    olds = {call.id: part for call, part in zip(raw.calls, calls, strict=True)}
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
