"""OpenAI chat messages, as any client sends them, and turns: one for each message."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from holdfast.adapters.compactor import Compactor
from holdfast.transcript.compose import openai_message
from holdfast.transcript.document import Document, Malformed
from holdfast.transcript.formats import mini_swe_agent, openai_chat
from holdfast.transcript.refill import refill
from holdfast.transcript.turn import Turn

Message = dict[str, Any]

_REASONING = ("reasoning_content", "reasoning")
_THOUGHTS = ("thinking", "redacted_thinking", "reasoning")


def compact_messages(compactor: Compactor, messages: Sequence[Message]) -> list[Message]:
    """The messages of the next request. Those that nothing touched are the very objects that were given."""
    return compactor.apply(messages, turns_of, message_of)


def turns_of(messages: Sequence[Mapping[str, Any]]) -> tuple[Turn, ...]:
    """One turn for each message. Raises BadTranscript for what is no chat message."""
    document = Document("", value=list(messages))
    # Agents that act through a fenced block get their results as user messages; read as results, they can be masked.
    reads = mini_swe_agent.read if mini_swe_agent.sniff(document) else openai_chat.read
    turns = reads(document).turns
    if len(turns) != len(messages):
        raise Malformed(f"expected chat messages, got {len(messages) - len(turns)} of another kind among them")
    return turns


def message_of(turn: Turn, original: Message | None) -> Message:
    """A rewritten turn as a message: in the shape of the one whose place it has, with every field that it has."""
    made = openai_message(turn)
    if original is None or not _same_shape(original, made):
        return made
    gone = _REASONING if not turn.reasoning else ()
    kept = {key: value for key, value in original.items() if key not in gone}
    if "tool_calls" in original:
        kept["tool_calls"] = _calls(original["tool_calls"], made.get("tool_calls", []))
        if not kept["tool_calls"]:
            del kept["tool_calls"]
    return kept | {"content": content_of(original.get("content"), turn)}


def content_of(content: Any, turn: Turn) -> Any:
    """Message content, a string or a list of parts, that says what the turn says; calls that it dropped go."""
    ids = {call.id for call in turn.calls}
    if content is None and not turn.text:
        return None
    return refill(content, turn.text, lambda part: _stays(part, bool(turn.reasoning), ids))


def _stays(part: Mapping[str, Any], reasoning: bool, ids: Collection[str]) -> bool:
    """Of a part that shows no text."""
    if part.get("type") in _THOUGHTS:
        return reasoning
    return part.get("type") != "tool_use" or part.get("id") in ids


def _same_shape(original: Mapping[str, Any], made: Mapping[str, Any]) -> bool:
    """A result may stand as a user message: that of a fenced command."""
    return original.get("role") == made["role"] or (original.get("role"), made["role"]) in (
        ("user", "tool"),
        ("function", "tool"),
        ("developer", "system"),
    )


def _calls(original: Sequence[Message], made: Sequence[Message]) -> list[Message]:
    """The calls of a rewritten message; an unchanged one with every field that it had."""
    wire = {call.get("id"): call for call in original}
    return [old if (old := wire.get(call["id"])) and _says(old) == _says(call) else call for call in made]


def _says(call: Mapping[str, Any]) -> Any:
    function = call.get("function") or {}
    return function.get("name"), function.get("arguments")
