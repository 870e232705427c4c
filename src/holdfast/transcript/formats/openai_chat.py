"""OpenAI chat messages: a list, an object with "messages", or one message per line.

Also reads what compatible servers add (`reasoning_content`, `reasoning`) and what is legacy (`function_call`,
role `function`). Does not judge whether calls and results pair up: that is `cuts.check_legal`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from holdfast.transcript.content import read_content
from holdfast.transcript.content_blocks import read_block
from holdfast.transcript.document import Document, Entry, MalformedEntry
from holdfast.transcript.json_fields import copy_object, take_list, take_required_text, take_text, to_json_text
from holdfast.transcript.turn import Role, ToolCall, Transcript, Turn

ROLES = {
    "system": Role.SYSTEM,
    "developer": Role.SYSTEM,
    "user": Role.USER,
    "assistant": Role.ASSISTANT,
    "tool": Role.TOOL,
    "function": Role.TOOL,
}
_OWN_FIELDS = ("tool_calls", "function_call", "tool_call_id")
SYSTEM_KEYS = ("system", "system_prompt")
"""Keys of Anthropic's system prompt; agents that store such messages (Cline) use the second."""
_ANTHROPIC_PARTS = ("tool_use", "tool_result", "redacted_thinking")


def sniff(document: Document) -> bool:
    messages = chat_messages(document)
    if has_own_marks(messages):
        return True
    return bool(messages) and not has_anthropic_parts(messages) and not has_anthropic_hints(document, messages)


def chat_messages(document: Document) -> list[dict[str, Any]]:
    """Returns the entries that look like chat messages of any wire."""
    values = [entry.value for entry in document.entries]
    return [value for value in values if isinstance(value, dict) and isinstance(value.get("role"), str)]


def has_own_marks(messages: Iterable[dict[str, Any]]) -> bool:
    """Returns True for fields or roles that Anthropic messages never have."""
    return any(m["role"] in ("tool", "function", "developer") or any(m.get(f) for f in _OWN_FIELDS) for m in messages)


def has_anthropic_parts(messages: Iterable[dict[str, Any]]) -> bool:
    """Returns True for content parts that OpenAI messages never have."""
    contents = [message.get("content") for message in messages]
    parts = [part for content in contents if isinstance(content, list) for part in content]
    return any(isinstance(part, dict) and part.get("type") in _ANTHROPIC_PARTS for part in parts)


def has_anthropic_hints(document: Document, messages: list[dict[str, Any]]) -> bool:
    """Returns True for marks that OpenAI-compatible files may carry too: they count if nothing speaks for OpenAI."""
    if messages and isinstance(document.value, dict) and any(key in document.value for key in SYSTEM_KEYS):
        return True
    contents = [message.get("content") for message in messages]
    parts = [part for content in contents if isinstance(content, list) for part in content]
    return any(isinstance(part, dict) and part.get("type") == "thinking" for part in parts)


def read(document: Document) -> Transcript:
    turns, skipped = document.read_each(document.entries, turn_of)
    return Transcript(pair_by_order(turns), "openai_chat", top_level(document), skipped)


def top_level(document: Document) -> dict[str, Any]:
    """Returns the fields beside "messages"."""
    if document.lines or not isinstance(document.value, dict):
        return {}
    return {key: value for key, value in document.value.items() if key != "messages"}


def turn_of(entry: Entry) -> Turn:
    """Returns the turn of one message."""
    fields = copy_object(entry.value, "a message")
    role = take_role(fields)
    content = read_content(fields.pop("content", None))
    refusal = take_text(fields, "refusal")
    voice = read_block("audio", fields["audio"]) if isinstance(fields.get("audio"), dict) else None
    reasoning = "\n".join(filter(None, (_take_reasoning(fields), content.reasoning)))
    calls, rest = _take_calls(fields, entry.number)
    call_id = take_text(fields, "tool_call_id") if role is Role.TOOL else ""
    return Turn(
        role=role,
        text="\n".join(filter(None, (content.text, refusal, voice.text if voice else ""))),
        reasoning=reasoning,
        calls=(*calls, *content.calls),
        call_id=call_id,
        source=entry.number,
        extra={**fields, **content.extra, **rest},
        opaque=(*content.opaque, *(voice.parts if voice else ())),
    )


def take_role(fields: dict[str, Any]) -> Role:
    name = take_required_text(fields, "role", "a message")
    if name not in ROLES:
        raise MalformedEntry(f'expected "role" to be one of {", ".join(ROLES)}, got "{name[:40]}"')
    return ROLES[name]


def _take_reasoning(fields: dict[str, Any]) -> str:
    """Takes the reasoning: servers disagree on the field's name, and some send it under two names at once."""
    found = [fields.pop(key) for key in ("reasoning_content", "reasoning") if _is_text(fields, key)]
    return next((text for text in found if text), "")


def _is_text(fields: dict[str, Any], key: str) -> bool:
    return key in fields and (fields[key] is None or isinstance(fields[key], str))


def _take_calls(fields: dict[str, Any], number: int) -> tuple[list[ToolCall], dict[str, Any]]:
    """Takes the calls of a message, and returns with them the fields that were not understood, by position."""
    wire = [copy_object(call, "a tool call") for call in take_list(fields, "tool_calls")]
    legacy = fields.pop("function_call", None)
    if legacy is not None:
        wire.append({"function": legacy})
    # Legacy calls and some servers have no id; the position makes one that no other message has.
    calls = [_take_call(call, f"call_{number}_{position}") for position, call in enumerate(wire)]
    rest = {str(position): call for position, call in enumerate(wire) if call}
    return calls, {"tool_calls": rest} if rest else {}


def _take_call(call: dict[str, Any], default_id: str) -> ToolCall:
    """Takes one call, and leaves in `call` the fields that were not understood."""
    type_ = call.pop("type", None)
    key = "custom" if type_ == "custom" else "function"
    body = copy_object(call.pop(key, None), f'"{key}" of a tool call')
    name = take_required_text(body, "name", "a tool call")
    arguments = to_json_text(body.pop("input" if key == "custom" else "arguments", None))
    if body:
        call[key] = body
    return ToolCall(take_text(call, "id") or default_id, name, arguments)


def pair_by_order(turns: Iterable[Turn]) -> tuple[Turn, ...]:
    """Gives results that came without an id (legacy, some local servers) the next unanswered call's."""
    paired: list[Turn] = []
    waiting: list[str] = []
    for turn in turns:
        if turn.role is Role.ASSISTANT:
            waiting = [call.id for call in turn.calls]
        elif turn.role is Role.TOOL:
            # With no call left to answer the result is an orphan, and must look like one.
            call_id = turn.call_id or (waiting[0] if waiting else f"unknown_{turn.source}")
            waiting = [id_ for id_ in waiting if id_ != call_id]
            turn = replace(turn, call_id=call_id)  # noqa: PLW2901
        paired.append(turn)
    return tuple(paired)
