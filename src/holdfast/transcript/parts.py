"""Folds message content, a string or a list of typed parts, into text, reasoning and tool calls.

Serves both chat wires (OpenAI and Anthropic). A part that is not text is shown as a placeholder
such as `[image]`; the part itself, and every field of a part that is not understood, is kept in `rest`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from holdfast.transcript.document import Malformed
from holdfast.transcript.turn import ToolCall
from holdfast.transcript.wire import json_text, kind, need_text, obj, take_text


@dataclass
class Folded:
    """What a message's content came to; filled part by part."""

    pieces: list[str] = field(default_factory=list)
    thoughts: list[str] = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)
    rest: dict[str, Any] = field(default_factory=dict)
    """Position of the part, from 0, as text (so that JSON can hold it) -> what was not understood."""

    @property
    def text(self) -> str:
        return "\n".join(piece for piece in self.pieces if piece)

    @property
    def reasoning(self) -> str:
        return "\n".join(thought for thought in self.thoughts if thought)

    @property
    def extra(self) -> dict[str, Any]:
        """`rest` as it stands in Turn.extra."""
        return {"parts": self.rest} if self.rest else {}


def fold(content: object) -> Folded:
    """Content of a message or of a tool result. Null is no content."""
    if content is None or isinstance(content, str):
        return Folded(pieces=[content or ""])
    if not isinstance(content, list):
        raise Malformed(f'expected "content" to be a string or a list of parts, got {kind(content)}')
    return fold_parts(enumerate(content))


def fold_parts(parts: Iterable[tuple[int, object]]) -> Folded:
    """Parts with their positions in the message."""
    folded = Folded()
    for position, part in parts:
        fields = {"type": "text", "text": part} if isinstance(part, str) else obj(part, "a content part")
        if "type" not in fields:
            # Some agents put a tool's bare JSON here, and the model reads it as such.
            fields = {"type": "text", "text": json_text(part)}
        type_ = need_text(fields, "type", "a content part")
        rest = _READERS.get(type_, _other)(type_, fields, folded)
        if rest or type_ not in _READERS:
            folded.rest[str(position)] = {"type": type_, **rest}
    return folded


def _text(_type: str, fields: dict[str, Any], folded: Folded) -> dict[str, Any]:
    folded.pieces.append(take_text(fields, "text"))
    return fields


def _refusal(_type: str, fields: dict[str, Any], folded: Folded) -> dict[str, Any]:
    folded.pieces.append(take_text(fields, "refusal"))
    return fields


def _thinking(_type: str, fields: dict[str, Any], folded: Folded) -> dict[str, Any]:
    # A string on Anthropic's wire; on some OpenAI-compatible ones a list of text parts.
    thought = fields.pop("thinking", None)
    folded.thoughts.append(fold(thought).text)
    # A signature is of exactly this text, so whoever sends the one again needs the other.
    return {**fields, "thinking": thought} if fields.get("signature") else fields


def _redacted(type_: str, fields: dict[str, Any], folded: Folded) -> dict[str, Any]:
    folded.thoughts.append(f"[{type_}]")
    return fields


def _tool_use(_type: str, fields: dict[str, Any], folded: Folded) -> dict[str, Any]:
    call_id, name = need_text(fields, "id", "a tool_use"), need_text(fields, "name", "a tool_use")
    folded.calls.append(ToolCall(call_id, name, json_text(fields.pop("input", {}))))
    return fields


def _other(type_: str, fields: dict[str, Any], folded: Folded) -> dict[str, Any]:
    """A placeholder, then the words of the part where it has any (an attached file, a compaction summary)."""
    key = next((key for key in ("text", "content") if isinstance(fields.get(key), str)), None)
    words = "\n" + fields.pop(key) if key else ""
    folded.pieces.append(f"[{type_.removesuffix('_url').removeprefix('input_')}]{words}")
    return fields


_READERS: dict[str, Callable[[str, dict[str, Any], Folded], dict[str, Any]]] = {
    "text": _text,
    "input_text": _text,
    "output_text": _text,
    "refusal": _refusal,
    "thinking": _thinking,
    "redacted_thinking": _redacted,
    "tool_use": _tool_use,
}
