"""Attachments of Claude Code: what the agent tells the model beside the conversation, each as it is sent.

A mentioned file, an edited one, rules of a folder, todo lists, the output of hooks: a line of type `attachment` holds
the facts, and the model gets them as a reminder. An attachment of a kind that is not known gives all of its words.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from holdfast.transcript.content_blocks import read_block
from holdfast.transcript.json_fields import text_or_empty, to_json_text
from holdfast.transcript.turn import Opaque

_UNSENT = (
    *("already_read_file", "command_permissions", "edited_image_file", "structured_output", "dynamic_skill"),
    "prompt_snapshot",  # a copy of the system prompt
    *("hook_cancelled", "hook_error_during_execution", "hook_non_blocking_error", "hook_system_message"),
    *("hook_permission_decision", "compaction_reminder", "max_turns_reached", "current_session_memory"),
)
"""Kinds that are for the screen or the program only."""
_TAG = "system-reminder"


@dataclass(frozen=True)
class Attachment:
    """The words of an attachment, as the model is sent them, and what is opaque in it."""

    text: str
    opaque: tuple[Opaque, ...] = ()


def read_attachment(value: object) -> Attachment | None:
    """Returns what the model is sent of an attachment; None if that is nothing."""
    fields = value if isinstance(value, dict) else {}
    kind = text_or_empty(fields.get("type"))
    if not kind or kind in _UNSENT:
        return None
    if kind == "file":
        return _file(fields)
    if kind == "directory":
        arguments = {"command": f"ls {text_or_empty(fields.get('path'))}"}
        return _attach_call("Bash", arguments, text_or_empty(fields.get("content")))
    if kind == "nested_memory":
        held = fields.get("content")
        words = text_or_empty(held.get("content")) if isinstance(held, dict) else text_or_empty(held)
        return Attachment(_remind(f"Contents of {text_or_empty(fields.get('path'))}:\n\n{words}"))
    block = read_block(kind, {key: held for key, held in fields.items() if key not in ("type", "displayPath")})
    media = tuple(part for part in block.parts if part.name != kind)
    text = _remind(block.text)
    return Attachment(text, tuple(Opaque(part.name, part.tokens, text) for part in media)) if block.words else None


def _file(fields: dict[str, Any]) -> Attachment:
    """Returns a file as the read of it that the agent pretends."""
    content = fields.get("content")
    held = content if isinstance(content, dict) else {"type": "text", "file": {"content": content}}
    inner = held.get("file")
    file = inner if isinstance(inner, dict) else {}
    path = text_or_empty(fields.get("filename")) or text_or_empty(file.get("filePath"))
    if isinstance(words := file.get("content"), str):
        return _attach_call("Read", {"file_path": path}, words)
    source = {"type": "base64", "data": file.get("base64"), "media_type": file.get("type")}
    kind = "image" if held.get("type") == "image" else "document"
    block = read_block(kind, {"source": source} if file.get("base64") else file)
    made = _attach_call("Read", {"file_path": path}, block.text)
    return Attachment(made.text, tuple(Opaque(part.name, part.tokens, made.text) for part in block.parts))


def _attach_call(tool: str, arguments: dict[str, str], output: str) -> Attachment:
    call = f"Called the {tool} tool with the following input: {to_json_text(arguments)}"
    return Attachment("\n".join((_remind(call), _remind(f"Result of calling the {tool} tool:\n{output}"))))


def _remind(words: str) -> str:
    return f"<{_TAG}>\n{words.strip()}\n</{_TAG}>"


def write_attachment(value: dict[str, Any], text: str) -> dict[str, Any]:
    """Returns an attachment that says `text` in place of what it said: a reminder without a kind of its own."""
    words = text.replace(f"<{_TAG}>\n", "").replace(f"\n</{_TAG}>", "")
    return {**value, "attachment": {"type": "critical_system_reminder", "content": words}}
