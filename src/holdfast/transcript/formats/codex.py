"""Codex rollouts: one line `{timestamp, type, payload}` each; older ones hold the items without that envelope.

The session is the `response_item` lines, which are Responses items. `event_msg` lines mirror them for the screen:
they are counted in `meta`, and used only for a result that no item holds. A `compacted` line restarts the read_history;
the turns before it are kept in `meta["compactions"]`.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

from holdfast.transcript import token_estimate
from holdfast.transcript.document import Document, Entry, MalformedEntry
from holdfast.transcript.draft import Draft
from holdfast.transcript.formats.openai_responses import (
    Item,
    ItemTurn,
    group_items,
    is_item,
    is_log_mark,
    items_of_draft,
    match_turns,
    read_item,
    write_items,
)
from holdfast.transcript.json_fields import copy_object, take_list, text_or_empty
from holdfast.transcript.turn import Role, Transcript, Turn

_LINE_TYPES = ("session_meta", "response_item", "event_msg", "turn_context", "compacted")
_BOOKKEEPING = ("ghost_snapshot", "other")
_KEPT_USER_TOKENS = 20_000
"""Tokens of the user's own messages that the agent keeps in a compaction that does not list the new history."""


@dataclass
class History:
    """The items that the model saw at the end, and the turns before each compaction."""

    items: list[Item] = field(default_factory=list)
    compactions: list[dict[str, Any]] = field(default_factory=list)


def sniff(document: Document) -> bool:
    values = [entry.value for entry in document.lines if isinstance(entry.value, dict)]
    return any(map(_is_line, values)) or is_legacy(document)


def _is_line(value: dict[str, Any]) -> bool:
    return value.get("type") in _LINE_TYPES and isinstance(value.get("payload"), dict)


def is_legacy(document: Document) -> bool:
    """Returns True for the flat layout: items beside a head without a type, or beside state marks."""
    values = [entry.value for entry in document.lines]
    return any(map(is_log_mark, values)) and any(map(is_item, values))


def read(document: Document) -> Transcript:
    lines, skipped = document.read_each(document.lines, read_line)
    held = read_history(lines)
    meta = _session(lines)
    other = Counter(line.kind for line in lines if not line.items and line.kind != "compacted")
    meta |= {"other_lines": dict(other)} if other else {}
    meta |= {"compactions": held.compactions} if held.compactions else {}
    return Transcript(tuple(said.turn for said in group_items(held.items)), "codex", meta, skipped)


@dataclass(frozen=True)
class Line:
    """One decoded line: its items (a compaction has those of the new read_history), or bookkeeping."""

    number: int
    kind: str
    fields: dict[str, Any]
    items: tuple[Item, ...] = ()
    mirror: Item | None = None
    """The result of a command, as the screen showed it."""

    @property
    def restarts(self) -> bool:
        return self.kind == "compacted"


def read_line(entry: Entry) -> Line:
    """Reads one line of either layout."""
    fields = copy_object(entry.value, "a line")
    if is_log_mark(fields):
        return Line(entry.number, "legacy", fields)
    if "payload" not in fields and is_item(fields):
        return Line(entry.number, "response_item", fields, _items(entry))
    kind = text_or_empty(fields.get("type"))
    if not kind:
        raise MalformedEntry('expected a line to have a "type"')
    payload = copy_object(fields.get("payload"), '"payload"')
    inner = Entry(entry.number, payload)
    if kind == "response_item":
        return Line(entry.number, kind, payload, _items(inner))
    if kind == "compacted":
        replaced = take_list(dict(payload), "replacement_history")
        return Line(entry.number, kind, payload, tuple(read_item(Entry(entry.number, item)) for item in replaced))
    name = text_or_empty(payload.get("type"))
    return Line(entry.number, f"{kind}/{name}" if name else kind, payload, mirror=_mirror(inner))


def _items(entry: Entry) -> tuple[Item, ...]:
    value = entry.value if isinstance(entry.value, dict) else {}
    return () if value.get("type") in _BOOKKEEPING else (read_item(entry),)


def _mirror(entry: Entry) -> Item | None:
    """Returns the result that an `exec_command_end` event repeats."""
    fields = entry.value
    if fields.get("type") != "exec_command_end" or not isinstance(fields.get("call_id"), str):
        return None
    output = fields.get("formatted_output") or fields.get("aggregated_output")
    item = {"type": "function_call_output", "call_id": fields["call_id"], "output": text_or_empty(output)}
    read = read_item(Entry(entry.number, item))
    return replace(read, turn=replace(read.turn, is_error=fields.get("exit_code") not in (0, None)))


def read_history(lines: tuple[Line, ...]) -> History:
    """Returns the items in the order in which the model saw them, each result once."""
    held = History()
    mirrors = {line.mirror.turn.call_id: line.mirror for line in lines if line.mirror}
    for line in lines:
        if line.restarts:
            before = group_items(_drop_repeats(held.items, mirrors))
            held.items = (
                list(line.items) if "replacement_history" in _set(line.fields) else _rebuild_history(before, line)
            )
            held.compactions.append({**_compaction(line, before), "summaries": _summaries(held.items, line)})
        else:
            held.items.extend(line.items)
    held.items = _drop_repeats(held.items, mirrors)
    return held


def _set(fields: dict[str, Any]) -> set[str]:
    return {key for key, value in fields.items() if value is not None}


def _drop_repeats(items: list[Item], mirrors: dict[str, Item]) -> list[Item]:
    """Returns each result once, and the mirror's if no item answers a call that is not the last words."""
    kept: list[Item] = []
    answered: set[str] = set()
    for item in items:
        call_id = item.turn.call_id
        if not call_id or call_id not in answered:
            kept.append(item)
        answered |= {call_id} if call_id else set()
    done: list[Item] = []
    for item in kept:
        done.append(item)
        missing = [call.id for call in item.turn.calls if call.id not in answered and call.id in mirrors]
        done.extend(mirrors[call_id] for call_id in missing)
    return done


def _compaction(line: Line, before: tuple[ItemTurn, ...]) -> dict[str, Any]:
    numbers = sorted({item.number for said in before for item in said.items})
    metadata = {key: value for key, value in line.fields.items() if key != "replacement_history"}
    turns = tuple(said.turn for said in before)
    return {"line": line.number, "lines": numbers, "turns": turns, "metadata": metadata}


def _summaries(items: list[Item], line: Line) -> tuple[Turn, ...]:
    """Returns the messages of a new history that stand for the old one: those that the line names as its message."""
    message = text_or_empty(line.fields.get("message"))
    said = (item.turn for item in items if item.turn.role is Role.USER and item.turn.text and message)
    return tuple(turn for turn in said if turn.extra.get("compacted") or _is_part(turn.text, message))


def _is_part(text: str, message: str) -> bool:
    """Returns True if a text holds the message, or is one paragraph or more of it."""
    return message in text or f"\n\n{text}\n\n" in f"\n\n{message}\n\n"


def _rebuild_history(before: tuple[ItemTurn, ...], line: Line) -> list[Item]:
    """Returns the history after a compaction that gives only its summary: instructions, the user's newest messages,
    summary.
    """
    spoken = [said.items[0] for said in before if said.turn.role in (Role.SYSTEM, Role.USER)]
    kept: list[Item] = []
    room = _KEPT_USER_TOKENS
    for item in reversed(spoken):
        if item.turn.extra.get("compacted"):
            continue
        room -= token_estimate.estimate_tokens(item.turn.text) if item.turn.role is Role.USER else 0
        if room >= 0:
            kept.append(item)
    content = [{"type": "input_text", "text": text_or_empty(line.fields.get("message"))}]
    summary = read_item(Entry(line.number, {"type": "message", "role": "user", "content": content}))
    return [*reversed(kept), replace(summary, turn=replace(summary.turn, extra={"compacted": True}))]


def _session(lines: tuple[Line, ...]) -> dict[str, Any]:
    """Returns the place and the program of the session: its head, and the model of the last turn."""
    head = next((line for line in lines if line.kind in ("session_meta", "legacy") and "id" in line.fields), None)
    context = [line.fields for line in lines if line.kind == "turn_context"]
    models = [{"model": fields["model"]} for fields in context if "model" in fields]
    return {**(head.fields if head else {}), **(models[-1] if models else {})}


def write(document: Document, held: Draft) -> str:
    """Returns the rollout with a `compacted` line that gives the whole new history, as the agent itself compacts: no
    line before it changes. A flat rollout, which knows no such line, is rewritten in place.
    """
    if held.turns == held.raw.turns:
        return append_lines(document, [])
    lines, _ = document.read_each(document.lines, read_line)
    found = match_turns(group_items(read_history(lines).items), held.raw.turns)
    if is_legacy(document):
        return write_items(document, held, found)
    stamps = [e.value["timestamp"] for e in document.lines if isinstance(e.value, dict) and "timestamp" in e.value]
    message = "\n\n".join(piece.turn.text for piece in held.pieces if piece.at is None)
    payload = {"message": message, "replacement_history": items_of_draft(held, found)}
    row = {
        "timestamp": stamps[-1] if stamps else "",
        **_next_ordinal(document),
        "type": "compacted",
        "payload": payload,
    }
    return append_lines(document, [row])


def _next_ordinal(document: Document) -> dict[str, int]:
    """Returns the ordinal of a line at the end; nothing in a rollout of an older program, whose lines have none."""
    found = [e.value.get("ordinal") for e in document.lines if isinstance(e.value, dict)]
    numbers = [number for number in found if isinstance(number, int)]
    return {"ordinal": max(numbers) + 1} if numbers else {}


def append_lines(document: Document, rows: list[Any]) -> str:
    """Returns JSON lines with more lines at the end, and without those that a lenient reading skipped."""
    text = document.text
    if document.left_out:
        lines = text.split("\n")
        text = "\n".join(line for number, line in enumerate(lines, 1) if number not in document.left_out)
    if not rows:
        return text
    end = "\r\n" if "\r\n" in text else "\n"
    added = [json.dumps(row, ensure_ascii=False, separators=(",", ":")) for row in rows]
    return text + ("" if text.endswith("\n") else end) + "".join(line + end for line in added)
