"""Reads message content, a string or typed parts, into text, reasoning and calls, and writes text back into it.

Serves both chat wires (OpenAI and Anthropic). A part that is not text is shown as a line such as `[image]` and the
words that it holds; the part itself, and every field of a part that is not understood, is kept in `rest`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from holdfast.transcript.content_blocks import read_block
from holdfast.transcript.document import MalformedEntry
from holdfast.transcript.json_fields import (
    copy_object,
    json_kind,
    take_required_text,
    take_text,
    text_or_empty,
    to_json_text,
)
from holdfast.transcript.media_cost import count_encrypted_tokens
from holdfast.transcript.turn import Opaque, ToolCall


@dataclass
class MessageContent:
    """The text, reasoning and calls of a message's content; filled part by part."""

    pieces: list[str] = field(default_factory=list)
    thoughts: list[str] = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)
    rest: dict[str, Any] = field(default_factory=dict)
    """Position of the part, from 0, as text (so that JSON can hold it), to the fields that were not understood."""
    hidden: list[Opaque] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "\n".join(piece for piece in self.pieces if piece)

    @property
    def reasoning(self) -> str:
        return "\n".join(thought for thought in self.thoughts if thought)

    @property
    def opaque(self) -> tuple[Opaque, ...]:
        return tuple(self.hidden)

    @property
    def extra(self) -> dict[str, Any]:
        """`rest` as it stands in Turn.extra."""
        return {"parts": self.rest} if self.rest else {}


def read_content(content: object) -> MessageContent:
    """Reads the content of a message or of a tool result; null is none. Raises MalformedEntry for any other type."""
    if content is None or isinstance(content, str):
        return MessageContent(pieces=[content or ""])
    if not isinstance(content, list):
        raise MalformedEntry(f'expected "content" to be a string or a list of parts, got {json_kind(content)}')
    return read_parts(enumerate(content))


def read_parts(parts: Iterable[tuple[int, object]]) -> MessageContent:
    """Reads content parts, given with their positions in the message."""
    folded = MessageContent()
    for position, part in parts:
        fields = {"type": "text", "text": part} if isinstance(part, str) else copy_object(part, "a content part")
        if "type" not in fields:
            # Some agents put a tool's bare JSON here, and the model reads it as such.
            fields = {"type": "text", "text": to_json_text(part)}
        type_ = take_required_text(fields, "type", "a content part")
        rest = _READERS.get(type_, _other)(type_, fields, folded)
        if rest or type_ not in _READERS:
            folded.rest[str(position)] = {"type": type_, **rest}
    return folded


def _text(_type: str, fields: dict[str, Any], folded: MessageContent) -> dict[str, Any]:
    folded.pieces.append(take_text(fields, "text"))
    return fields


def _refusal(_type: str, fields: dict[str, Any], folded: MessageContent) -> dict[str, Any]:
    folded.pieces.append(take_text(fields, "refusal"))
    return fields


def _thinking(_type: str, fields: dict[str, Any], folded: MessageContent) -> dict[str, Any]:
    # A string on Anthropic's wire; on some OpenAI-compatible ones a list of text parts.
    thought = fields.pop("thinking", None)
    words = read_content(thought).text
    folded.thoughts.append(words)
    if not words and isinstance(signature := fields.get("signature"), str) and signature:
        # Thinking that the provider shows to nobody: it is in the signature.
        folded.hidden.append(Opaque("encrypted thinking", count_encrypted_tokens(signature)))
    # A signature is of exactly this text, so whoever sends the one again needs the other.
    return {**fields, "thinking": thought} if fields.get("signature") else fields


def _opaque_thinking(type_: str, fields: dict[str, Any], folded: MessageContent) -> dict[str, Any]:
    shown = f"[{type_}]"
    folded.thoughts.append(shown)
    if isinstance(data := fields.get("data"), str):
        folded.hidden.append(Opaque(type_, count_encrypted_tokens(data), shown))
    return fields


def _tool_use(_type: str, fields: dict[str, Any], folded: MessageContent) -> dict[str, Any]:
    call_id, name = take_required_text(fields, "id", "a tool_use"), take_required_text(fields, "name", "a tool_use")
    folded.calls.append(ToolCall(call_id, name, to_json_text(fields.pop("input", {}))))
    return fields


def _other(type_: str, fields: dict[str, Any], folded: MessageContent) -> dict[str, Any]:
    """Adds a line that names the part, its words, and what it holds beside them."""
    block = read_block(type_, fields)
    folded.pieces.append(block.text)
    folded.hidden += block.parts
    return fields


_READERS: dict[str, Callable[[str, dict[str, Any], MessageContent], dict[str, Any]]] = {
    "text": _text,
    "input_text": _text,
    "output_text": _text,
    "refusal": _refusal,
    "thinking": _thinking,
    "redacted_thinking": _opaque_thinking,
    "tool_use": _tool_use,
}

_TEXT_TYPES = ("text", "input_text", "output_text")
_OF_THE_TEXT = ("citations", "annotations")
"""Fields of a text part that point into its text."""


def write_content(content: Any, text: str, keep: Callable[[dict[str, Any]], bool] = lambda _: True) -> Any:
    """Returns content (a string, a list of parts or null) that reads as `text`.

    In a list, a part whose own text still stands in `text` as whole lines stays (an image behind its placeholder, say),
    the text between becomes text parts, and a part that shows nothing stays if `keep` says so.
    """
    if not isinstance(content, list):
        return text
    loose = _loose_parts(content, text)
    made: list[Any] = []
    cursor = since = 0
    slot: int | None = None
    mould: dict[str, Any] = {"type": _text_type(content)}
    for at, part in enumerate(content):
        shown = read_content([part]).text
        found = _find_lines(text, shown, cursor) if shown and at not in loose else -1
        if not shown:
            made += [part] if not isinstance(part, dict) or keep(part) else []
        elif found < 0:
            mould = _text_part_fields(part) or mould
            slot = len(made) if slot is None else slot
        else:
            if found > cursor:
                made.insert(_insert_at(made, since, slot), {**mould, "text": text[cursor : found - 1]})
            made.append(part)
            cursor, since, slot = found + len(shown) + 1, len(made), None
    if cursor < len(text):
        made.insert(_insert_at(made, since, slot), {**mould, "text": text[cursor:]})
    return made


def _loose_parts(content: Sequence[Any], text: str) -> set[int]:
    """Returns the positions of calls and results of the provider's own tools whose other half no longer stands in
    `text`: a provider refuses the one without the other, so what is left of it becomes text.
    """
    halves: dict[str, list[int]] = {}
    for at, part in enumerate(content):
        if isinstance(part, dict) and text_or_empty(part.get("type")).endswith(("_tool_use", "_tool_result")):
            halves.setdefault(text_or_empty(part.get("tool_use_id") or part.get("id")), []).append(at)
    pairs = [pair for pair in halves.values() if len(pair) > 1]
    stands = {at: _find_lines(text, read_content([content[at]]).text, 0) >= 0 for pair in pairs for at in pair}
    return {at for pair in pairs if not all(stands[at] for at in pair) for at in pair}


def _find_lines(text: str, shown: str, start: int) -> int:
    """Returns the offset at which `shown` stands in `text` as whole lines, so that the text around it can be parts; or
    -1.
    """
    at = text.find(shown, start)
    while at >= 0:
        end = at + len(shown)
        # A part without text folds to nothing, so an empty line beside it would be lost.
        before = at == start or (text[at - 1] == "\n" and at - 1 > start)
        after = end == len(text) or (text[end] == "\n" and end + 1 < len(text))
        if before and after:
            return at
        at = text.find(shown, at + 1)
    return -1


def _text_part_fields(part: Any) -> dict[str, Any] | None:
    """Returns the fields that a text part keeps when its text is replaced; None for a part of another type."""
    if not isinstance(part, dict) or part.get("type") not in _TEXT_TYPES:
        return None
    return {key: value for key, value in part.items() if key not in ("text", *_OF_THE_TEXT)}


def _text_type(content: Sequence[Any]) -> str:
    types = [part.get("type") for part in content if isinstance(part, dict)]
    return next((type_ for type_ in types if type_ in _TEXT_TYPES), "text")


def _insert_at(made: Sequence[Any], since: int, slot: int | None) -> int:
    """Returns the index for new text: the place of the old text, else before the first call."""
    if slot is not None:
        return slot
    calls = (at for at in range(since, len(made)) if isinstance(made[at], dict) and made[at].get("type") == "tool_use")
    return next(calls, len(made))
