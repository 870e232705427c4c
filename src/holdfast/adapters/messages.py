"""OpenAI chat messages, as any client sends them, and turns: one for each message."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from holdfast.adapters.compactor import Compactor
from holdfast.transcript.content import write_content
from holdfast.transcript.document import Document, MalformedEntry
from holdfast.transcript.formats import mini_swe_agent, openai_chat
from holdfast.transcript.formats.apply_draft import input_like
from holdfast.transcript.formats.openai_chat_write import put_call
from holdfast.transcript.provider_requests import to_openai_call, to_openai_message
from holdfast.transcript.turn import ToolCall, Turn

Message = dict[str, Any]

_REASONING = ("reasoning_content", "reasoning")
_THOUGHTS = ("thinking", "redacted_thinking", "reasoning")


def compact_messages(compactor: Compactor, messages: Sequence[Message]) -> list[Message]:
    """Returns the messages of the next request. Messages that nothing touched are the very objects that were given."""
    return compactor.apply(messages, turns_of, message_of)


def turns_of(messages: Sequence[Mapping[str, Any]]) -> tuple[Turn, ...]:
    """Returns one turn for each message. Raises BadTranscript for what is no chat message."""
    document = Document("", value=list(messages))
    # Agents that act through a fenced block get their results as user messages; read as results, they can be masked.
    reads = mini_swe_agent.read if mini_swe_agent.sniff(document) else openai_chat.read
    turns = reads(document).turns
    if len(turns) != len(messages):
        raise MalformedEntry(f"expected chat messages, got {len(messages) - len(turns)} of another kind among them")
    return turns


def message_of(turn: Turn, original: Message | None) -> Message:
    """Returns a rewritten turn as a message in the shape, and with all fields, of the message in whose
    place it stands.
    """
    made = to_openai_message(turn)
    if original is None or not _same_shape(original, made):
        return made
    gone = _REASONING if not turn.reasoning else ()
    kept = {key: value for key, value in original.items() if key not in gone}
    if "tool_calls" in original:
        kept["tool_calls"] = _calls(original, turn.calls)
        if not kept["tool_calls"]:
            del kept["tool_calls"]
    if turn.calls and isinstance(kept.get("function_call"), dict):
        kept["function_call"] = {**kept["function_call"], "arguments": turn.calls[0].arguments}
    return kept | {"content": content_of(original.get("content"), turn)}


def content_of(content: Any, turn: Turn) -> Any:
    """Returns message content, a string or a list of parts, with the text of the turn and without calls that it
    dropped.
    """
    calls = {call.id: call for call in turn.calls}
    if content is None and not turn.text:
        return None
    filled = write_content(content, turn.text, lambda part: _is_kept(part, bool(turn.reasoning), calls))
    return [_part(part, calls) for part in filled] if isinstance(filled, list) else filled


def _part(part: Any, calls: Mapping[str, ToolCall]) -> Any:
    """Returns a part; a call has the arguments of the rewritten turn."""
    call = calls.get(part.get("id", "")) if isinstance(part, dict) and part.get("type") == "tool_use" else None
    if call is None or as_object(call.arguments) == part.get("input"):
        return part
    return {**part, "input": input_like(part.get("input"), call)}


def as_object(arguments: str) -> Any:
    """Arguments as JSON; None where they are none."""
    try:
        return json.loads(arguments)
    except (ValueError, RecursionError):
        return None


def _is_kept(part: Mapping[str, Any], reasoning: bool, ids: Collection[str]) -> bool:
    """Returns True if a part without text stays in the message."""
    if part.get("type") in _THOUGHTS:
        return reasoning
    return part.get("type") != "tool_use" or part.get("id") in ids


def _same_shape(original: Mapping[str, Any], made: Mapping[str, Any]) -> bool:
    """Returns True if the turn fits the message. The result of a fenced command may stand as a user message."""
    return original.get("role") == made["role"] or (original.get("role"), made["role"]) in (
        ("user", "tool"),
        ("function", "tool"),
        ("developer", "system"),
    )


def _calls(original: Message, calls: Sequence[ToolCall]) -> list[Message]:
    """Returns the calls of a rewritten message with all their fields, without those that stand in its content."""
    wire = {old.get("id"): old for old in original["tool_calls"]}
    content = original.get("content")
    parts = [part for part in content if isinstance(part, dict)] if isinstance(content, list) else []
    inside = {part.get("id") for part in parts if part.get("type") == "tool_use"}
    return [
        put_call(old, call) if (old := wire.get(call.id)) else to_openai_call(call)
        for call in calls
        if call.id in wire or call.id not in inside
    ]
