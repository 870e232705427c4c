"""Gemini CLI sessions: recorded chats (one JSON, or lines), and checkpoints (a list of `{role, parts}`).

A recorded reply holds its calls together with their results: it becomes an assistant turn and its tool turns. In
a log of lines the last line with an id stands, `$rewindTo` takes back what came after, `$set` changes the head.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from holdfast.transcript.document import Document, Entry, Malformed, numbered
from holdfast.transcript.formats.openai_chat import pair_by_order
from holdfast.transcript.turn import Role, ToolCall, Transcript, Turn
from holdfast.transcript.wire import json_text, need_text, obj, take_list, take_text, text_or_empty

_SPOKEN = {"user": Role.USER, "gemini": Role.ASSISTANT, "model": Role.ASSISTANT}
_NOTES = ("info", "error", "warning")
_BAD = ("error", "cancelled", "canceled")


def sniff(document: Document) -> bool:
    values = [entry.value for entry in entries(document) if isinstance(entry.value, dict)]
    return any(map(is_content, values)) or any(map(_is_record, values)) or _is_head(document.value)


def is_content(value: dict[str, Any]) -> bool:
    """A message of a checkpoint."""
    return value.get("role") in ("user", "model") and isinstance(value.get("parts"), list)


def _is_record(value: dict[str, Any]) -> bool:
    return (value.get("type") == "gemini" and "id" in value) or _is_head(value)


def _is_head(value: object) -> bool:
    return isinstance(value, dict) and "sessionId" in value and "projectHash" in value


def entries(document: Document) -> tuple[Entry, ...]:
    """The records or messages."""
    if isinstance(document.value, dict) and "messages" not in document.value:
        return numbered(document.value.get("history"))
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
    """The messages that stand, and what stood beside them."""
    if not document.lines:
        value = document.value if isinstance(document.value, dict) else {}
        return entries(document), {key: held for key, held in value.items() if key not in ("messages", "history")}
    meta: dict[str, Any] = {}
    live: dict[str, Entry] = {}
    for entry in document.lines:
        value = entry.value if isinstance(entry.value, dict) else {}
        if isinstance(value.get("$rewindTo"), str):
            live = _rewound(live, value["$rewindTo"])
        elif isinstance(value.get("$set"), dict):
            meta |= value["$set"]
        elif _is_head(value):
            meta |= value
        else:
            live[text_or_empty(value.get("id")) or f"line {entry.number}"] = entry
    meta.pop("messages", None)
    return tuple(live.values()), meta


def _rewound(live: dict[str, Entry], id_: str) -> dict[str, Entry]:
    """What stands before the message with this id; nothing where there is none."""
    kept: dict[str, Entry] = {}
    for key, entry in live.items():
        if key == id_:
            return kept
        kept[key] = entry
    return {}


def turns_of(entry: Entry) -> tuple[Turn, ...]:
    """The turns of one record or message; none of a note of the program."""
    fields = obj(entry.value, "a message")
    if _is_note(fields):
        return ()
    content = isinstance(fields.get("parts"), list)
    name = need_text(fields, "role" if content else "type", "a message")
    if name not in _SPOKEN:
        raise Malformed(f'expected the speaker to be one of {", ".join(_SPOKEN)}, got "{name[:40]}"')
    folded = fold_parts(take_list(fields, "parts") if content else fields.pop("content", None), entry.number)
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
class Folded:
    """What parts came to."""

    texts: list[str] = field(default_factory=list)
    thoughts: list[str] = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)
    results: list[Turn] = field(default_factory=list)
    rest: dict[str, Any] = field(default_factory=dict)
    """Position of the part -> what was not understood."""


def fold_parts(content: object, number: int) -> Folded:
    """A string, one part, or a list of parts."""
    folded = Folded()
    for position, part in enumerate(content if isinstance(content, list) else [content]):
        fields = {"text": part} if isinstance(part, str) or part is None else obj(part, "a part")
        _fold_part(fields, f"call_{number}_{position}", folded)
        if fields:
            folded.rest[str(position)] = fields
    return folded


def _fold_part(fields: dict[str, Any], default_id: str, folded: Folded) -> None:
    """Takes from `fields` what it understood."""
    if "functionCall" in fields:
        call = obj(fields.pop("functionCall"), '"functionCall"')
        name = need_text(call, "name", "a functionCall")
        folded.calls.append(ToolCall(take_text(call, "id") or default_id, name, json_text(call.pop("args", {}))))
    elif "functionResponse" in fields:
        folded.results.append(_response(obj(fields.pop("functionResponse"), '"functionResponse"')))
    elif "text" in fields:
        text = take_text(fields, "text")
        (folded.thoughts if fields.get("thought") is True else folded.texts).append(text)
    elif fields:
        folded.texts.append(f"[{next(iter(fields))}]")


def _response(fields: dict[str, Any]) -> Turn:
    """The text of a result: its "output" or "error" where it has one, else the whole as JSON."""
    response = fields.pop("response", None)
    held = dict(response) if isinstance(response, dict) else {}
    key = next((key for key in ("output", "error") if isinstance(held.get(key), str)), "")
    text = held.pop(key) if key else json_text(response)
    extra = {**fields, **({"response": held} if key and held else {})}
    call_id = take_text(extra, "id")
    return Turn(Role.TOOL, text, call_id=call_id, is_error=key == "error", extra=extra)


def _record_call(value: object) -> tuple[ToolCall, Turn]:
    """A recorded call and its result. One that was cut off has an empty result, as it is replayed with one."""
    fields = obj(value, "a tool call")
    call_id, name = need_text(fields, "id", "a tool call"), need_text(fields, "name", "a tool call")
    call = ToolCall(call_id, name, json_text(fields.pop("args", {})))
    folded = fold_parts(fields.pop("result", None), 0)
    texts = [*(turn.text for turn in folded.results), *folded.texts]
    bad = fields.get("status") in _BAD or any(turn.is_error for turn in folded.results)
    extra = {**fields, **({"parts": folded.rest} if folded.rest else {})}
    return call, Turn(Role.TOOL, "\n".join(filter(None, texts)), call_id=call_id, is_error=bad, extra=extra)


def _thought(value: object) -> str:
    if not isinstance(value, dict):
        return text_or_empty(value)
    return "\n".join(filter(None, (text_or_empty(value.get(key)) for key in ("subject", "description"))))
