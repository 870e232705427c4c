"""OpenAI Responses items: a list, a request's "input", a response's "output", or one item per line.

What the model said at one go (reasoning, a message, calls) is one assistant turn. An encrypted compaction is a
system turn of its own: nobody can read it, and everything before it hangs on it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from holdfast.transcript.content import read_content, read_parts, write_content
from holdfast.transcript.content_blocks import read_block
from holdfast.transcript.document import Document, Entry, MalformedEntry, number_entries
from holdfast.transcript.draft import Draft
from holdfast.transcript.formats.apply_draft import Change, apply_draft, pack_entries, render_file, unpack_entries
from holdfast.transcript.formats.openai_chat import ROLES
from holdfast.transcript.json_fields import (
    copy_object,
    take_list,
    take_required_text,
    take_text,
    text_or_empty,
    to_json_text,
)
from holdfast.transcript.media_cost import count_encrypted_tokens
from holdfast.transcript.outcomes import reports_failure
from holdfast.transcript.turn import Opaque, Role, ToolCall, Transcript, Turn

LISTS = ("input", "output", "items")
_ITEM_TYPES = (
    *("reasoning", "compaction", "compaction_summary", "compaction_trigger", "item_reference", "program"),
    *("program_output", "tool_search_output", "additional_tools", "configuration_update"),
    *("mcp_list_tools", "mcp_approval_request", "mcp_approval_response"),
)
_CONTENT_TYPES = ("input_text", "output_text", "input_image", "input_file")
_ARGUMENTS = ("arguments", "input", "action", "actions", "operation", "code")
"""Fields in which the kinds of call keep their arguments."""


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
class ItemTurn:
    """A turn and the items that it was read from."""

    turn: Turn
    items: tuple[Item, ...]


def sniff(document: Document) -> bool:
    values = [entry.value for entry in item_entries(document)]
    bare = isinstance(document.value, dict) and "instructions" in document.value and document.value.get("input") == []
    return bare or (any(map(is_item, values)) and not any(map(is_log_mark, values)))


def is_item(value: object) -> bool:
    """Returns True for an item of this wire that is no message of another."""
    if not isinstance(value, dict) or "payload" in value or "parentId" in value or "tokensBefore" in value:
        return False  # a line of another log: Codex, and pi with its compactions
    type_ = text_or_empty(value.get("type"))
    if "role" not in value or type_ == "additional_tools":
        return type_ in _ITEM_TYPES or type_.endswith(("_call", "_call_output"))
    content = value.get("content")
    kinds = [part.get("type") for part in content if isinstance(part, dict)] if isinstance(content, list) else []
    if any(kind in _CONTENT_TYPES for kind in kinds):
        return type_ in ("", "message")
    return type_ == "message" and isinstance(value["role"], str) and not kinds


def is_log_mark(value: object) -> bool:
    """Returns True for a line that an agent's log has beside the items: its head, or the state of its workspace."""
    if not isinstance(value, dict):
        return False
    head = "type" not in value and "role" not in value and {"id", "timestamp"} <= value.keys()
    return "record_type" in value or head


def item_entries(document: Document) -> tuple[Entry, ...]:
    """Returns the items with their numbers."""
    if document.lines:
        return document.lines
    if isinstance(document.value, dict):
        return number_entries(
            next((document.value[key] for key in LISTS if isinstance(document.value.get(key), list)), None)
        )
    return number_entries(document.value)


def read(document: Document) -> Transcript:
    items, skipped = document.read_each(item_entries(document), read_item)
    meta = _top_level(document)
    head = _instructions(meta)
    return Transcript((*head, *(said.turn for said in group_items(items))), "openai_responses", meta, skipped)


def _top_level(document: Document) -> dict[str, Any]:
    value = document.value if isinstance(document.value, dict) else {}
    return {key: held for key, held in value.items() if not (key in LISTS and isinstance(held, list))}


def _instructions(meta: dict[str, Any]) -> tuple[Turn, ...]:
    """Returns the system prompt of a request, and takes it out of `meta`."""
    text = meta.get("instructions")
    if not isinstance(text, str) or not text:
        return ()
    del meta["instructions"]
    return (Turn(Role.SYSTEM, text),)


def read_item(entry: Entry) -> Item:
    """Reads one item by its type. An unknown type becomes a placeholder in the model's words."""
    fields = copy_object(entry.value, "an item")
    value = dict(fields)
    type_ = take_text(fields, "type") or "message"
    if type_ == "message":
        turn = _message(fields)
    elif type_ == "reasoning":
        turn = _reasoning(fields)
    elif type_.startswith(("compaction", "context_compaction")):
        turn = Turn(
            Role.SYSTEM, f"[{type_}]", extra={"type": type_, **fields}, opaque=_find_sealed(fields, f"[{type_}]")
        )
    elif type_.endswith("_output") and _find_call(type_, fields):
        turn = _result(type_, fields)
    elif (type_.endswith("_call") or type_ == "program") and fields.get("call_id"):
        turn = _call(type_, fields)
    else:
        folded = read_parts([(0, {**fields, "type": type_})])
        role = Role.SYSTEM if fields.get("role") == "developer" else Role.ASSISTANT
        turn = Turn(role, folded.text, extra={"type": type_, **folded.rest.get("0", {})}, opaque=folded.opaque)
    return Item(entry.number, value, replace(turn, source=entry.number))


def _find_sealed(fields: dict[str, Any], shown: str) -> tuple[Opaque, ...]:
    """Returns the words of an item that only the provider can read, with the text that stands for them."""
    sealed = text_or_empty(fields.get("encrypted_content"))
    return (Opaque("encrypted reasoning", count_encrypted_tokens(sealed), shown),) if sealed else ()


def _message(fields: dict[str, Any]) -> Turn:
    name = take_required_text(fields, "role", "a message")
    role = ROLES.get(name)
    if role is None or role is Role.TOOL:
        raise MalformedEntry(f'expected "role" to be one of system, developer, user, assistant, got "{name[:40]}"')
    content = read_content(fields.pop("content", None))
    extra = {**fields, **content.extra}
    return Turn(role, content.text, content.reasoning, tuple(content.calls), extra=extra, opaque=content.opaque)


def _reasoning(fields: dict[str, Any]) -> Turn:
    """Returns the full text if the provider gives it, else its summary; the encrypted form stays in `extra`."""
    parts = take_list(fields, "content") or None
    summary = take_list(fields, "summary")
    texts = [text_or_empty(part.get("text")) for part in parts or summary if isinstance(part, dict)]
    if parts:
        fields["summary"] = summary
    words = "\n".join(filter(None, texts))
    hidden = () if parts else _find_sealed(fields, words)
    return Turn(Role.ASSISTANT, "", words, extra={"type": "reasoning", **fields}, opaque=hidden)


def _call(type_: str, fields: dict[str, Any]) -> Turn:
    call_id = take_required_text(fields, "call_id", f"a {type_}")
    named = type_ in ("function_call", "custom_tool_call")
    name = take_required_text(fields, "name", f"a {type_}") if named else type_.removesuffix("_call")
    key = next((key for key in _ARGUMENTS if key in fields), "")
    call = ToolCall(call_id, name, to_json_text(fields.pop(key, None)))
    extra = fields if type_ == "function_call" else {"type": type_, **fields}
    return Turn(Role.ASSISTANT, calls=(call,), extra=extra)


def _result(type_: str, fields: dict[str, Any]) -> Turn:
    call_id = _find_call(type_, fields)
    fields.pop("call_id", None)
    if type_ == "tool_search_output":
        block = read_block(type_, fields)
        return Turn(Role.TOOL, block.text, call_id=call_id, extra={"type": type_, **fields}, opaque=block.parts)
    output = fields.pop(_output_key(type_), None)
    content = read_content([output] if isinstance(output, dict) else output)
    extra = {**fields, **content.extra}
    if type_ != "function_call_output":
        extra["type"] = type_
    return Turn(
        Role.TOOL,
        content.text,
        call_id=call_id,
        is_error=reports_failure(content.text),
        extra=extra,
        opaque=content.opaque,
    )


def _find_call(type_: str, fields: dict[str, Any]) -> str:
    """Returns the id of the call that an output answers."""
    return text_or_empty(fields.get("id" if type_ == "local_shell_call_output" else "call_id"))


def _output_key(type_: str) -> str:
    return "result" if type_ == "program_output" else "output"


def group_items(items: Iterable[Item]) -> tuple[ItemTurn, ...]:
    """Groups items into turns: reasoning joins the item after it, calls join the message before them."""
    groups: list[list[Item]] = []
    for item in items:
        if groups and item.joins and groups[-1][-1].joins and not _begins(item.turn, [i.turn for i in groups[-1]]):
            groups[-1].append(item)
        else:
            groups.append([item])
    return tuple(ItemTurn(_merge_items(group), tuple(group)) for group in groups)


def _begins(turn: Turn, group: list[Turn]) -> bool:
    """Returns True if this piece is of a later utterance than the group. While calls wait for results it never is."""
    if turn.calls or any(said.calls for said in group):
        return False
    return any(said.text for said in group)


def _merge_items(items: list[Item]) -> Turn:
    """Merges items into one turn. `extra` keeps the rest of each item under its number."""
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
        opaque=tuple(chain.from_iterable(turn.opaque for turn in turns)),
    )


def write(document: Document, held: Draft) -> str:
    items, _ = document.read_each(item_entries(document), read_item)
    return write_items(_edit_instructions(document, held), held, match_turns(group_items(items), held.raw.turns))


def write_items(document: Document, held: Draft, found: Sequence[ItemTurn | None]) -> str:
    """Returns the document with the items of the draft; `found` gives for each raw turn the items that it was read
    from.
    """
    where = [tuple(item.number for item in said.items) if said else () for said in found]
    entries = item_entries(document)
    value = document.value if isinstance(document.value, dict) else {}
    key = next((key for key in LISTS if isinstance(value.get(key), list)), "")
    return render_file(document, unpack_entries(entries, apply_draft(entries, held, _edit, _new, where)), key)


def _edit_instructions(document: Document, held: Draft) -> Document:
    """Returns the document with the draft's instructions, which are the first turn of a request but no item."""
    raw = held.raw.turns[0]
    if raw.source or raw.role is not Role.SYSTEM:
        return document
    kept = next((piece.turn.text for piece in held.pieces if piece.at == 0), None)
    return replace(document, value={**document.value, "instructions": kept})


def match_turns(said: Iterable[ItemTurn], turns: Iterable[Turn]) -> tuple[ItemTurn | None, ...]:
    """Returns for each turn its items; None for the instructions. A lenient reading has fewer turns."""
    rest = iter(said)
    return tuple(next((one for one in rest if _same(one.turn, turn)), None) if turn.source else None for turn in turns)


def _same(one: Turn, other: Turn) -> bool:
    return (one.source, one.role, one.text, one.call_id) == (other.source, other.role, other.text, other.call_id)


def items_of_draft(held: Draft, found: Sequence[ItemTurn | None]) -> list[Any]:
    """Returns the items of a whole draft."""
    items: list[Any] = []
    for piece in held.pieces:
        said = found[piece.at] if piece.at is not None else None
        if said is None:
            items += items_of(piece.turn)
        elif said.turn == piece.turn:
            items += [item.value for item in said.items]
        else:
            items += edit_items([item.value for item in said.items], said.turn, piece.turn)
    return items


def _edit(values: list[Any], changes: tuple[Change, ...]) -> Sequence[Any]:
    ((raw, new),) = ((change.raw, change.new) for change in changes)
    if raw is None or new is None:
        return values
    return pack_entries(edit_items(values, raw, new), len(values))


def _new(turn: Turn, _near: Any) -> Any:
    return pack_entries(items_of(turn), 1)[0]


def items_of(turn: Turn) -> list[Any]:
    """Returns the items of a new turn."""
    if turn.role is Role.TOOL and turn.call_id:
        return [{"type": "function_call_output", "call_id": turn.call_id, "output": turn.text}]
    role = "assistant" if turn.role is Role.ASSISTANT else "system" if turn.role is Role.SYSTEM else "user"
    text = [_message_item({}, role, turn.text)] if turn.text or not turn.calls else []
    return [*_reasoning_items(turn), *text, *(_call_item({}, call) for call in turn.calls)]


def edit_items(values: Sequence[Any], raw: Turn, new: Turn) -> list[Any]:
    """Returns the items of one turn after a change; an untouched one is the very value that it was."""
    if (raw.role, raw.call_id) != (new.role, new.call_id):
        return items_of(new)
    if raw.role is Role.TOOL:
        key = _output_key(text_or_empty(values[0].get("type")))
        return [{**values[0], key: write_content(values[0].get(key), new.text)}]
    if raw.role is not Role.ASSISTANT:
        return [_message_item(values[0], values[0]["role"], new.text)] if _is_message(values[0]) else items_of(new)
    return list(_edit_answer(values, raw, new))


def _edit_answer(values: Sequence[Any], raw: Turn, new: Turn) -> Iterator[Any]:
    calls = {call.id: call for call in new.calls}
    text = [new.text] if new.text and new.text != raw.text else []
    if new.reasoning != raw.reasoning:
        yield from _reasoning_items(new)
    spoken = any(not _call_id(value) and value.get("type") != "reasoning" for value in values)
    for value in values:
        call_id = _call_id(value)
        if value.get("type") == "reasoning":
            yield from [value] if new.reasoning == raw.reasoning else []
        elif not call_id and new.text == raw.text:
            yield value
        else:
            # The new text stands where the old one began, or before the calls.
            if text and (not call_id or not spoken):
                yield _message_item(value if _is_message(value) else {}, "assistant", text.pop())
            call = calls.pop(call_id, None)
            if call:
                yield value if call in raw.calls else _call_item(value, call)
    yield from (_message_item({}, "assistant", words) for words in text)
    yield from (_call_item({}, call) for call in calls.values())


def _is_message(value: dict[str, Any]) -> bool:
    """Returns True if it is read as a message: a role alone does not make it one."""
    return (value.get("type") or "message") == "message"


def _call_id(value: dict[str, Any]) -> str:
    type_ = text_or_empty(value.get("type"))
    return text_or_empty(value.get("call_id")) if type_.endswith("_call") or type_ == "program" else ""


def _message_item(old: dict[str, Any], role: str, text: str) -> dict[str, Any]:
    kind = "output_text" if role == "assistant" else "input_text"
    if old:
        return {**old, "content": write_content(old.get("content"), text)}
    return {"type": "message", "role": role, "content": [{"type": kind, "text": text}]}


def _reasoning_items(turn: Turn) -> list[Any]:
    if not turn.reasoning:
        return []
    return [{"type": "reasoning", "summary": [{"type": "summary_text", "text": turn.reasoning}]}]


def _call_item(old: dict[str, Any], call: ToolCall) -> dict[str, Any]:
    key = next((key for key in _ARGUMENTS if key in old), "arguments")
    if old and key == "code":
        return {**old, key: call.arguments}
    if old and key not in ("arguments", "input"):
        # What the provider runs itself takes its arguments as an object.
        return {**old, key: parse_arguments_text(call.arguments)}
    fields = old or {"type": "function_call", "call_id": call.id}
    return {**fields, "name": call.name, key: call.arguments}


def parse_arguments_text(arguments: str) -> Any:
    """Parses arguments as JSON, or returns them as they stand."""
    try:
        return json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments
