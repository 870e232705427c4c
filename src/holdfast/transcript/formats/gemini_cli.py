"""Gemini CLI sessions: recorded chats (one JSON, or lines), and checkpoints (a list of `{role, parts}`).

A recorded reply holds its calls together with their results: it becomes an assistant turn and its tool turns. In
a log of lines the last line with an id stands, `$rewindTo` takes back what came after, `$set` changes the head; a
`$set` of "messages" restates the whole history, and what stood before it is dead. The program records a result twice,
with its call and as a message of the user: that is one result.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from zlib import crc32

from holdfast.transcript.content_blocks import read_block
from holdfast.transcript.document import Document, Entry, MalformedEntry, number_entries
from holdfast.transcript.formats.openai_chat import pair_by_order
from holdfast.transcript.json_fields import (
    copy_object,
    take_list,
    take_required_text,
    take_text,
    text_or_empty,
    to_json_text,
)
from holdfast.transcript.turn import Opaque, Role, ToolCall, Transcript, Turn

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
    document = lay_out_history(document)
    live, meta = live_entries(document)
    spoken, skipped = find_spoken(document, live)
    turns = tuple(turn for turn, _ in spoken)
    notes = Counter(text_or_empty(e.value.get("type")) for e in live if isinstance(e.value, dict) and _is_note(e.value))
    if notes:
        meta["other_messages"] = dict(notes)
    return Transcript(turns, "gemini_cli", meta, skipped)


def find_spoken(
    document: Document, live: Sequence[Entry]
) -> tuple[list[tuple[Turn, tuple[int, ...]]], tuple[str, ...]]:
    """Returns every turn with the numbers of its entries, and the skipped entries. A result that a later entry repeats
    has both.
    """
    groups, skipped = document.read_each(live, turns_of)
    spoken: list[tuple[Turn, tuple[int, ...]]] = []
    answered: dict[str, int] = {}
    for turn in pair_by_order(turn for group in groups for turn in group):
        for call in turn.calls:
            answered.pop(call.id, None)
        if turn.role is Role.TOOL and turn.call_id in answered:
            at = answered[turn.call_id]
            spoken[at] = (spoken[at][0], (*spoken[at][1], turn.source))
            continue
        if turn.role is Role.TOOL:
            answered[turn.call_id] = len(spoken)
        spoken.append((turn, (turn.source,)))
    return spoken, skipped


def lay_out_history(document: Document) -> Document:
    """Returns the log with a line of its own for each message that a line restates; the line itself stays before
    them.
    """
    if not any(read_restatement(entry.value) is not None for entry in document.lines):
        return document
    by_number = {entry.number: entry for entry in document.lines}
    rows: list[str] = []
    lines: list[Entry] = []
    for number, row in enumerate(document.text.split("\n"), 1):
        entry = by_number.get(number)
        messages = None if entry is None else read_restatement(entry.value)
        bare = row if entry is None or messages is None else _without_messages(entry.value)
        rows.append(bare)
        lines += [] if entry is None else [replace(entry, number=len(rows))]
        for message in messages or ():
            rows.append(json.dumps(message, ensure_ascii=False))
            lines.append(Entry(len(rows), message))
    return replace(document, text="\n".join(rows), lines=tuple(lines))


def read_restatement(value: object) -> list[Any] | None:
    """Returns the messages of a line that gives a whole history; None for any other line."""
    held = value.get("$set", value if _is_head(value) else None) if isinstance(value, dict) else None
    messages = held.get("messages") if isinstance(held, dict) else None
    return messages if isinstance(messages, list) else None


def _without_messages(value: dict[str, Any]) -> str:
    held = {**value["$set"], "messages": []} if "$set" in value else {}
    return json.dumps({**value, "$set": held} if held else {**value, "messages": []}, ensure_ascii=False)


def _is_note(value: dict[str, Any]) -> bool:
    return value.get("type") in _NOTES


def is_beside(value: object) -> bool:
    """Returns True for a line that changes the head of the session."""
    return isinstance(value, dict) and (_is_head(value) or isinstance(value.get("$set"), dict))


def live_entries(document: Document) -> tuple[tuple[Entry, ...], dict[str, Any]]:
    """Returns the messages that stand, and the fields beside them."""
    if not document.lines:
        value = document.value if isinstance(document.value, dict) else {}
        return entries(document), {key: held for key, held in value.items() if key not in ("messages", "history")}
    meta: dict[str, Any] = {}
    live: dict[str, Entry] = {}
    said: list[int] = []
    compactions: list[dict[str, Any]] = []
    broken = tuple(entry for entry in document.lines if not isinstance(entry.value, dict))
    for entry in document.lines:
        value = entry.value
        if not isinstance(value, dict):
            continue
        if isinstance(value.get("$rewindTo"), str):
            live = _rewind(live, value["$rewindTo"])
        elif isinstance(value.get("$set"), dict) or _is_head(value):
            messages = read_restatement(value)
            meta |= {key: held for key, held in value.get("$set", value).items() if key != "messages"}
            if messages is not None:
                compactions += _compaction(document, entry, live, messages)
                live = {}
        else:
            said.append(entry.number)
            live[text_or_empty(value.get("id")) or f"line {entry.number}"] = entry
    gone = set(said) - {entry.number for entry in live.values()} - {n for one in compactions for n in one["lines"]}
    meta |= {"compactions": compactions} if compactions else {}
    # A broken line is refused or named even where a rewind would have taken it back.
    return (*broken, *live.values()), {**meta, **({"abandoned_lines": sorted(gone)} if gone else {})}


def _compaction(
    document: Document, entry: Entry, live: dict[str, Entry], messages: Sequence[Any]
) -> list[dict[str, Any]]:
    """Returns the compaction that a restated history is, with the turns before it; none at the start of a session."""
    readable = replace(document, lenient=True)
    before = [turn for turn, _ in find_spoken(readable, tuple(live.values()))[0]]
    if not before:
        return []
    after = [turn for turn, _ in find_spoken(readable, number_entries(list(messages)))[0]]
    old = {(turn.role, turn.text) for turn in before}
    summaries = tuple(turn for turn in after if turn.role is Role.USER and (turn.role, turn.text) not in old)
    lines = sorted(held.number for held in live.values())
    return [{"line": entry.number, "lines": lines, "turns": tuple(before), "summaries": summaries, "metadata": {}}]


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
    # Newer records say calls and thoughts in the content too, and that is what is sent.
    sent = {call.id for call in folded.calls}
    calls = (*folded.calls, *(call for call, _ in made if call.id not in sent))
    reasoning = "\n".join(filter(None, folded.thoughts or thoughts))
    results = [replace(turn, source=entry.number) for turn in (*folded.results, *(result for _, result in made))]
    extra = {**fields, **({"parts": folded.rest} if folded.rest else {})}
    said = Turn(
        _SPOKEN[name],
        "\n".join(filter(None, folded.texts)),
        reasoning,
        calls,
        source=entry.number,
        extra=extra,
        opaque=tuple(folded.opaque),
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
    opaque: list[Opaque] = field(default_factory=list)


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
        key, held = next(iter(fields.items()))
        block = read_block(key, held if isinstance(held, dict) else {key: held})
        folded.texts.append(block.text)
        folded.opaque += block.parts


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
    text = "\n".join(filter(None, texts))
    return call, Turn(Role.TOOL, text, "", (), call_id, bad, extra=extra, opaque=tuple(folded.opaque))


def _thought(value: object) -> str:
    if not isinstance(value, dict):
        return text_or_empty(value)
    return "\n".join(filter(None, (text_or_empty(value.get(key)) for key in ("subject", "description"))))
