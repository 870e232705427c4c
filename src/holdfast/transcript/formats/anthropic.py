"""Anthropic messages: a list or an object with "messages" and a top-level "system", or one message per line.

A user message with several tool results becomes several tool turns, then a user turn for the rest of it.
Server-side tools and their results stay inside the assistant turn as placeholders: no client answers them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from holdfast.transcript.content import read_content, read_parts
from holdfast.transcript.document import Document, Entry, MalformedEntry
from holdfast.transcript.formats import openai_chat
from holdfast.transcript.json_fields import copy_object, take_required_text
from holdfast.transcript.turn import Role, Transcript, Turn

ROLES = {"system": Role.SYSTEM, "user": Role.USER, "assistant": Role.ASSISTANT}


def sniff(document: Document) -> bool:
    messages = openai_chat.chat_messages(document)
    if openai_chat.has_anthropic_parts(messages):
        return True
    return not openai_chat.has_own_marks(messages) and openai_chat.has_anthropic_hints(document, messages)


def read(document: Document) -> Transcript:
    meta = openai_chat.top_level(document)
    head = _system_turns(document, meta)
    groups, skipped = document.read_each(document.entries, _entry_turns)
    turns = (*head, *(turn for group in groups for turn in group))
    return Transcript(turns, "anthropic", meta, skipped)


def _system_turns(document: Document, meta: dict[str, Any]) -> tuple[Turn, ...]:
    """Returns the top-level system prompt as turns, and takes it out of `meta`."""
    prompts = [meta.pop(key) for key in system_keys(meta)]
    try:
        folded = [read_content(prompt) for prompt in prompts]
    except MalformedEntry as error:
        raise document.refuse(f"system prompt: {error}") from None
    return tuple(Turn(Role.SYSTEM, content.text, extra=content.extra, opaque=content.opaque) for content in folded)


def system_keys(value: Mapping[str, Any]) -> list[str]:
    """Returns the keys of a document that hold a system prompt, in the order of their turns."""
    return [key for key in openai_chat.SYSTEM_KEYS if value.get(key)]


def _entry_turns(entry: Entry) -> tuple[Turn, ...]:
    return turns_of(entry.value, entry.number)


def turns_of(message: object, source: int) -> tuple[Turn, ...]:
    """Returns the turns of one message. Fields beside role and content stand in `extra` of the first."""
    fields = copy_object(message, "a message")
    name = take_required_text(fields, "role", "a message")
    if name not in ROLES:
        raise MalformedEntry(f'expected "role" to be one of {", ".join(ROLES)}, got "{name[:40]}"')
    if "content" not in fields:
        raise MalformedEntry('expected a message to have "content"')
    content = fields.pop("content")
    results: list[Turn] = []
    parts = list(enumerate(content)) if isinstance(content, list) else []
    if name == "user":
        results = [_result(block, source) for _, block in parts if is_result(block)]
        parts = [(position, block) for position, block in parts if not is_result(block)]
    turns = results
    if parts or not results:
        folded = read_parts(parts) if isinstance(content, list) else read_content(content)
        calls = tuple(folded.calls)
        said = Turn(
            ROLES[name],
            folded.text,
            folded.reasoning,
            calls,
            source=source,
            extra=folded.extra,
            opaque=folded.opaque,
        )
        turns = [*results, said]
    first = replace(turns[0], extra={**fields, **turns[0].extra})
    return (first, *turns[1:])


def is_result(block: object) -> bool:
    return isinstance(block, dict) and block.get("type") == "tool_result"


def _result(block: object, source: int) -> Turn:
    fields = copy_object(block, "a tool_result")
    del fields["type"]
    call_id = take_required_text(fields, "tool_use_id", "a tool_result")
    is_error = fields.pop("is_error", None) is True
    content = read_content(fields.pop("content", None))
    return Turn(
        Role.TOOL,
        content.text,
        call_id=call_id,
        is_error=is_error,
        source=source,
        extra={**fields, **content.extra},
        opaque=content.opaque,
    )
