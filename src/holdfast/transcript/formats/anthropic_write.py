"""Writes Anthropic messages: roles alternate where a drop would have joined two of one role, results come first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from holdfast.transcript.content import write_content
from holdfast.transcript.document import Document
from holdfast.transcript.draft import Draft
from holdfast.transcript.formats import anthropic
from holdfast.transcript.formats.apply_draft import (
    Change,
    NewEntry,
    apply_draft,
    find_raw_turn,
    match_calls,
    render_file,
    replace_blocks,
)
from holdfast.transcript.provider_requests import merge_messages, to_anthropic_call, to_anthropic_message
from holdfast.transcript.turn import Role, Turn


@dataclass(frozen=True)
class Split:
    """The messages that one message became, because a new turn of the other role now stands in it."""

    messages: tuple[dict[str, Any], ...]


def write(document: Document, held: Draft) -> str:
    return render_file(_edit_system(document, held), items(document, held))


def items(document: Document, held: Draft) -> list[NewEntry]:
    """Returns the messages of the new file; an untouched one is the very value that was decoded."""
    made = apply_draft(document.entries, held, edit, new)
    return _alternating([item for item in made if item.number not in document.left_out])


def new(turn: Turn, _near: Any) -> dict[str, Any]:
    return to_anthropic_message(turn)


def edit(values: list[Any], changes: tuple[Change, ...]) -> list[Any]:
    """Returns the changed message; a Split if a new turn inside it is of the other role."""
    message = values[0]
    blocks = message.get("content")
    results = iter([block for block in blocks if anthropic.is_result(block)] if isinstance(blocks, list) else [])
    made: list[tuple[str, Any]] = []
    for change in changes:
        answers = change.raw is not None and change.raw.role is Role.TOOL
        part = next(results) if answers else _content_without_results(message)
        if change.new is not None:
            made.append(_edit_turn(message["role"], part, change.raw, change.new))
    messages = [
        _join_contents(role, [part for _, part in run]) for role, run in groupby(made, key=lambda pair: pair[0])
    ]
    first = {**message, **messages[0]}
    return [first if len(messages) == 1 else Split((first, *messages[1:]))]


def _content_without_results(message: dict[str, Any]) -> Any:
    """Returns the content of a message without the results."""
    content = message.get("content")
    if message["role"] != "user" or not isinstance(content, list):
        return content
    return [block for block in content if not anthropic.is_result(block)]


def _edit_turn(role: str, part: Any, raw: Turn | None, turn: Turn) -> tuple[str, Any]:
    """Returns the role and the content of one turn of a message; a result is a list of one block."""
    if raw is None:
        fresh = to_anthropic_message(turn)
        return fresh["role"], fresh["content"]
    if raw.role is not Role.TOOL:
        return role, part if raw == turn else put_content(part, raw, turn)
    return role, [part if raw == turn else _put_result(part, raw, turn)]


def put_content(content: Any, raw: Turn, turn: Turn) -> Any:
    """Changes the content that read as `raw` so that it reads as `turn`. Thinking stays as it is (it is signed), or
    goes.
    """
    if raw.calls != turn.calls:
        kept, fresh = match_calls(raw.calls, turn.calls)
        blocks = content if isinstance(content, list) else [{"type": "text", "text": content}] if content else []
        content = [*replace_blocks(blocks, calls=kept), *map(to_anthropic_call, fresh)]
    if raw.reasoning and not turn.reasoning and isinstance(content, list):
        content = replace_blocks(content, thinking=False)
    return content if raw.text == turn.text else write_content(content, turn.text)


def _put_result(block: dict[str, Any], raw: Turn, turn: Turn) -> dict[str, Any]:
    made = dict(block)
    if raw.text != turn.text:
        made["content"] = write_content(block.get("content"), turn.text)
    if raw.is_error != turn.is_error:
        made["is_error"] = turn.is_error
    return made


def _join_contents(role: str, contents: Sequence[Any]) -> dict[str, Any]:
    """Joins the contents of turns into one message."""
    message = {"role": role, "content": contents[0]}
    for content in contents[1:]:
        message = merge_messages(message, {"role": role, "content": content})
    return message


def _alternating(items: Sequence[NewEntry]) -> list[NewEntry]:
    """Merges neighbours of one role into one message, but for those that were neighbours in the file already."""
    made: list[NewEntry] = []
    flat: list[NewEntry] = []
    for item in items:
        flat += map(NewEntry, item.value.messages) if isinstance(item.value, Split) else [item]
    for item in flat:
        last = made[-1] if made else None
        if last is None or (item.number and item.number == last.number + 1) or not _same_role(last, item):
            made.append(item)
        else:
            made[-1] = replace(item, value=merge_messages(last.value, item.value))
    return made


def _same_role(one: NewEntry, two: NewEntry) -> bool:
    values = (one.value, two.value)
    return all(isinstance(value, dict) for value in values) and one.value.get("role") == two.value.get("role")


def _edit_system(document: Document, held: Draft) -> Document:
    """Returns the document with the changes of the system prompt that stands beside the messages."""
    heads = [at for at, turn in enumerate(held.raw.turns) if not turn.source]
    if not heads:
        return document
    kept = {find_raw_turn(piece, held): piece.turn for piece in held.pieces}
    value = dict(document.value)
    for key, at in zip(anthropic.system_keys(value), heads, strict=True):
        turn, raw = kept.get(at), held.raw.turns[at]
        if turn is None:
            del value[key]
        elif turn.text != raw.text:
            value[key] = write_content(value[key], turn.text)
    return replace(document, value=value)
