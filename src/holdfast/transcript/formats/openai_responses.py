"""OpenAI Responses items: a list, a request's "input", a response's "output", or one item per line.

What the model said at one go (reasoning, a message, calls) is one assistant turn. An encrypted compaction is a
system turn of its own: nobody can read it, and everything before it hangs on it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from holdfast.transcript.document import Document, Entry, Malformed, numbered
from holdfast.transcript.formats.openai_chat import ROLES
from holdfast.transcript.parts import fold, fold_parts
from holdfast.transcript.turn import Role, ToolCall, Transcript, Turn
from holdfast.transcript.wire import json_text, need_text, obj, take_list, take_text, text_or_empty

LISTS = ("input", "output", "items")
_ITEM_TYPES = ("reasoning", "compaction", "compaction_summary", "item_reference")
_CONTENT_TYPES = ("input_text", "output_text", "input_image", "input_file")
_ARGUMENTS = ("arguments", "input", "action", "operation")
"""Where the kinds of call keep what they call with."""


@dataclass(frozen=True)
class Item:
    """One item, read: a turn, or a piece of an assistant turn."""

    number: int
    value: dict[str, Any]
    turn: Turn

    @property
    def joins(self) -> bool:
        return self.turn.role is Role.ASSISTANT


@dataclass(frozen=True)
class Said:
    """A turn and the items that it was read from."""

    turn: Turn
    items: tuple[Item, ...]


def sniff(document: Document) -> bool:
    values = [entry.value for entry in item_entries(document)]
    return any(map(is_item, values)) and not any(map(is_log_mark, values))


def is_item(value: object) -> bool:
    """An item of this wire, and no message of another."""
    if not isinstance(value, dict) or "payload" in value:
        return False
    type_ = text_or_empty(value.get("type"))
    if "role" not in value:
        return type_ in _ITEM_TYPES or type_.endswith(("_call", "_call_output"))
    content = value.get("content")
    kinds = [part.get("type") for part in content if isinstance(part, dict)] if isinstance(content, list) else []
    if any(kind in _CONTENT_TYPES for kind in kinds):
        return type_ in ("", "message")
    return type_ == "message" and isinstance(value["role"], str) and not kinds


def is_log_mark(value: object) -> bool:
    """A line that an agent's log has beside the items: its head, or the state of its workspace."""
    if not isinstance(value, dict):
        return False
    head = "type" not in value and "role" not in value and {"id", "timestamp"} <= value.keys()
    return "record_type" in value or head


def item_entries(document: Document) -> tuple[Entry, ...]:
    """The items with their numbers."""
    if document.lines:
        return document.lines
    if isinstance(document.value, dict):
        return numbered(next((document.value[key] for key in LISTS if isinstance(document.value.get(key), list)), None))
    return numbered(document.value)


def read(document: Document) -> Transcript:
    items, skipped = document.read_each(item_entries(document), read_item)
    meta = _top_level(document)
    head = _instructions(meta)
    return Transcript((*head, *(said.turn for said in said_of(items))), "openai_responses", meta, skipped)


def _top_level(document: Document) -> dict[str, Any]:
    value = document.value if isinstance(document.value, dict) else {}
    return {key: held for key, held in value.items() if not (key in LISTS and isinstance(held, list))}


def _instructions(meta: dict[str, Any]) -> tuple[Turn, ...]:
    """The system prompt of a request, taken out of `meta`."""
    text = meta.get("instructions")
    if not isinstance(text, str) or not text:
        return ()
    del meta["instructions"]
    return (Turn(Role.SYSTEM, text),)


def read_item(entry: Entry) -> Item:
    """One item, by its type. A type that nobody knows is shown as a placeholder in what the model said."""
    fields = obj(entry.value, "an item")
    value = dict(fields)
    type_ = take_text(fields, "type") or "message"
    if type_ == "message":
        turn = _message(fields)
    elif type_ == "reasoning":
        turn = _reasoning(fields)
    elif type_.startswith(("compaction", "context_compaction")):
        turn = Turn(Role.SYSTEM, f"[{type_}]", extra={"type": type_, **fields})
    elif type_.endswith("_output") and fields.get("call_id"):
        turn = _result(type_, fields)
    elif type_.endswith("_call") and fields.get("call_id"):
        turn = _call(type_, fields)
    else:
        folded = fold_parts([(0, {**fields, "type": type_})])
        turn = Turn(Role.ASSISTANT, folded.text, extra={"type": type_, **folded.rest.get("0", {})})
    return Item(entry.number, value, replace(turn, source=entry.number))


def _message(fields: dict[str, Any]) -> Turn:
    name = need_text(fields, "role", "a message")
    role = ROLES.get(name)
    if role is None or role is Role.TOOL:
        raise Malformed(f'expected "role" to be one of system, developer, user, assistant, got "{name[:40]}"')
    content = fold(fields.pop("content", None))
    return Turn(role, content.text, content.reasoning, tuple(content.calls), extra={**fields, **content.extra})


def _reasoning(fields: dict[str, Any]) -> Turn:
    """The full text where the provider gives it, else its summary; the encrypted form stays in `extra`."""
    parts = take_list(fields, "content") or None
    summary = take_list(fields, "summary")
    texts = [text_or_empty(part.get("text")) for part in parts or summary if isinstance(part, dict)]
    if parts:
        fields["summary"] = summary
    return Turn(Role.ASSISTANT, "", "\n".join(filter(None, texts)), extra={"type": "reasoning", **fields})


def _call(type_: str, fields: dict[str, Any]) -> Turn:
    call_id = need_text(fields, "call_id", f"a {type_}")
    named = type_ in ("function_call", "custom_tool_call")
    name = need_text(fields, "name", f"a {type_}") if named else type_.removesuffix("_call")
    key = next((key for key in _ARGUMENTS if key in fields), "")
    call = ToolCall(call_id, name, json_text(fields.pop(key, None)))
    extra = fields if type_ == "function_call" else {"type": type_, **fields}
    return Turn(Role.ASSISTANT, calls=(call,), extra=extra)


def _result(type_: str, fields: dict[str, Any]) -> Turn:
    call_id = need_text(fields, "call_id", f"a {type_}")
    output = fields.pop("output", None)
    content = fold([output] if isinstance(output, dict) else output)
    extra = {**fields, **content.extra}
    if type_ != "function_call_output":
        extra["type"] = type_
    return Turn(Role.TOOL, content.text, call_id=call_id, is_error=failed(content.text), extra=extra)


def failed(output: str) -> bool:
    """Whether an output says of itself that its command failed: agents wrap it as JSON with an exit code."""
    if not output.startswith("{") or '"exit_code"' not in output:
        return False
    try:
        held = json.loads(output)
    except (ValueError, RecursionError):
        return False
    metadata = held.get("metadata") if isinstance(held, dict) else None
    return isinstance(metadata, dict) and metadata.get("exit_code") not in (0, None)


def said_of(items: Iterable[Item]) -> tuple[Said, ...]:
    """Items to turns: reasoning joins what follows it, calls join the message before them."""
    groups: list[list[Item]] = []
    for item in items:
        if groups and item.joins and groups[-1][-1].joins and not _begins(item.turn, [i.turn for i in groups[-1]]):
            groups[-1].append(item)
        else:
            groups.append([item])
    return tuple(Said(_merged(group), tuple(group)) for group in groups)


def _begins(turn: Turn, group: list[Turn]) -> bool:
    """Whether this piece is of a later utterance than the group. While calls wait for results it never is."""
    if turn.calls or any(said.calls for said in group):
        return False
    return any(said.text for said in group)


def _merged(items: list[Item]) -> Turn:
    """One turn from its items. `extra` keeps the rest of each item under its number."""
    turns = [item.turn for item in items]
    if len(items) == 1:
        return turns[0]
    rest = {str(turn.source): turn.extra for turn in turns if turn.extra}
    return Turn(
        turns[0].role,
        "\n".join(turn.text for turn in turns if turn.text),
        "\n".join(turn.reasoning for turn in turns if turn.reasoning),
        tuple(chain.from_iterable(turn.calls for turn in turns)),
        source=turns[0].source,
        extra={"items": rest} if rest else {},
    )
