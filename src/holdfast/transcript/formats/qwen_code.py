"""Qwen Code sessions: one record a line, linked by uuid and parentUuid, each with a message in Gemini's form.

Reads what the agent sends next: the branch of the last record, after its last compression, whose `compressedHistory`
is the whole history until then. The turns before each compression are kept in `meta["compactions"]`. A change is
written as the agent itself compresses: one more record with the whole new history.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from holdfast.transcript.document import Document, Entry
from holdfast.transcript.draft import Draft, new_draft
from holdfast.transcript.formats.codex import append_lines
from holdfast.transcript.formats.gemini_cli import turns_of
from holdfast.transcript.formats.openai_chat import pair_by_order
from holdfast.transcript.json_fields import copy_object, text_or_empty
from holdfast.transcript.provider_requests import parse_arguments
from holdfast.transcript.token_estimate import estimate_tokens
from holdfast.transcript.turn import Role, Transcript, Turn

_SPOKEN = ("user", "assistant", "tool_result")
_CONTEXT = ("notification", "cron", "background_task_completed", "goal_runtime")
"""Subtypes of records in the user's role that the program wrote."""
_COMPRESSED = 1  # of the program's own states of a compression
_RECORD = ("sessionId", "cwd", "version", "gitBranch", "timestamp")


@dataclass(frozen=True)
class Record:
    """One record, with the turns of its message, or of the history that it restates."""

    number: int
    fields: dict[str, Any]
    turns: tuple[Turn, ...] = ()
    history: tuple[Turn, ...] | None = None

    @property
    def uuid(self) -> str:
        return text_or_empty(self.fields.get("uuid"))

    @property
    def parent(self) -> str:
        return text_or_empty(self.fields.get("parentUuid"))


def sniff(document: Document) -> bool:
    values = [entry.value for entry in document.lines if isinstance(entry.value, dict)]
    return any(_is_record(value) for value in values)


def _is_record(value: dict[str, Any]) -> bool:
    message = value.get("message")
    own = isinstance(message, dict) and isinstance(message.get("parts"), list)
    return "uuid" in value and "parentUuid" in value and (own or value.get("subtype") == "chat_compression")


def read(document: Document) -> Transcript:
    records, skipped = document.read_each(document.lines, _record)
    path = _path(records)
    turns: tuple[Turn, ...] = ()
    compactions: list[dict[str, Any]] = []
    for record in path:
        if record.history is not None:
            compactions.append(_compaction(record, turns))
            turns = record.history
        turns += record.turns
    on_path = {record.number for record in path}
    silent = [record.fields for record in records if not record.turns and record.history is None]
    meta = {key: path[0].fields[key] for key in _RECORD if path and key in path[0].fields}
    meta |= {"other_lines": dict(Counter(text_or_empty(fields.get("subtype")) or "other" for fields in silent))}
    meta |= {"abandoned_lines": [record.number for record in records if record.turns and record.number not in on_path]}
    meta |= {"compactions": compactions}
    return Transcript(pair_by_order(turns), "qwen_code", {key: held for key, held in meta.items() if held}, skipped)


def _record(entry: Entry) -> Record:
    fields = copy_object(entry.value, "a record")
    if fields.get("type") == "system" and fields.get("subtype") == "chat_compression":
        payload = fields.get("systemPayload")
        history = payload.get("compressedHistory") if isinstance(payload, dict) else None
        if isinstance(history, list):
            said = [turn for content in history for turn in turns_of(Entry(entry.number, content))]
            return Record(entry.number, fields, (), tuple(said))
    message = fields.get("message")
    if fields.get("type") not in _SPOKEN or not isinstance(message, dict):
        return Record(entry.number, fields)
    extra: dict[str, Any] = {"model": fields["model"]} if isinstance(fields.get("model"), str) else {}
    extra |= {"isMeta": True} if fields.get("subtype") in _CONTEXT else {}
    said = [replace(turn, extra={**turn.extra, **extra}) for turn in turns_of(Entry(entry.number, message))]
    return Record(entry.number, fields, tuple(said))


def _path(records: tuple[Record, ...]) -> list[Record]:
    """Returns the records from the start to the last one. Records of one uuid are pieces of one message; a parent that
    is not in the file is the record above.
    """
    pieces: dict[str, list[Record]] = {}
    for record in records:
        pieces.setdefault(record.uuid, []).append(record)
    above = {record.uuid: before.uuid for before, record in pairwise(records)}
    uuid = records[-1].uuid if records else ""
    path: list[Record] = []
    seen: set[str] = set()
    while uuid in pieces and uuid not in seen:
        seen.add(uuid)
        path += reversed(pieces[uuid])
        parent = pieces[uuid][0].parent
        uuid = parent if parent in pieces or not parent else above.get(uuid, "")
    return path[::-1]


def _compaction(record: Record, before: tuple[Turn, ...]) -> dict[str, Any]:
    old = {(turn.role, turn.text) for turn in before}
    made = record.history or ()
    payload = record.fields.get("systemPayload")
    return {
        "line": record.number,
        "lines": sorted({turn.source for turn in before}),
        "turns": before,
        "summaries": tuple(turn for turn in made if turn.role is Role.USER and (turn.role, turn.text) not in old),
        "metadata": payload.get("info") or {} if isinstance(payload, dict) else {},
    }


def write(document: Document, held: Draft) -> str:
    """Writes the session with one more record: a compression whose history is the draft."""
    if held.turns == held.raw.turns:
        return append_lines(document, [])
    records, _ = document.read_each(document.lines, _record)
    last = records[-1]
    before, after = (draft.size(estimate_tokens) for draft in (new_draft(held.raw), held))
    info = {"originalTokenCount": before, "newTokenCount": after, "compressionStatus": _COMPRESSED}
    row = {
        "uuid": str(uuid5(NAMESPACE_URL, f"holdfast:{last.uuid}:{after}")),
        "parentUuid": last.uuid,
        **{key: last.fields[key] for key in _RECORD if key in last.fields},
        "type": "system",
        "subtype": "chat_compression",
        "systemPayload": {"info": info, "compressedHistory": _contents(document, held)},
    }
    return append_lines(document, [row])


def _contents(document: Document, held: Draft) -> list[Any]:
    """Returns the messages of the draft; a message of which nothing changed is the one that stood in its record."""
    stored = {entry.number: entry.value.get("message") for entry in document.lines if isinstance(entry.value, dict)}
    alone = Counter(turn.source for turn in held.raw.turns)
    contents: list[Any] = []
    for piece in held.pieces:
        at = piece.at
        same = at is not None and not piece.writer and held.raw.turns[at] == piece.turn
        message = stored.get(piece.turn.source) if same and alone[piece.turn.source] == 1 else None
        made = message if isinstance(message, dict) and "parts" in message else _content(piece.turn)
        answers = piece.turn.role is Role.TOOL and contents and "functionResponse" in contents[-1]["parts"][0]
        if answers:  # the results of one answer are one message
            contents[-1] = {**contents[-1], "parts": [*contents[-1]["parts"], *made["parts"]]}
        else:
            contents.append(made)
    return contents


def _content(turn: Turn) -> dict[str, Any]:
    if turn.role is Role.TOOL and turn.call_id:
        response = {"error" if turn.is_error else "output": turn.text}
        name = text_or_empty(turn.extra.get("name")) or "tool"
        return {
            "role": "user",
            "parts": [{"functionResponse": {"id": turn.call_id, "name": name, "response": response}}],
        }
    if turn.role is not Role.ASSISTANT:
        return {"role": "user", "parts": [{"text": turn.text}]}
    thoughts = [{"text": turn.reasoning, "thought": True}] if turn.reasoning else []
    words = [{"text": turn.text}] if turn.text else []
    calls = [{"functionCall": {"id": c.id, "name": c.name, "args": parse_arguments(c)}} for c in turn.calls]
    return {"role": "model", "parts": [*thoughts, *words, *calls]}
