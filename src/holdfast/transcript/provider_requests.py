"""Writes provider requests from turns of any format. The same turns always give the same JSON, so that a cache holds.

Content of one provider alone is sent on that wire alone: signed thinking to Anthropic, `reasoning_content` to OpenAI's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from holdfast.transcript.content import write_content
from holdfast.transcript.turn import Role, ToolCall, Turn

_OPENAI_PARTS = re.compile("image_url|input_audio|file")
_ANTHROPIC_PARTS = re.compile("image|document|server_tool_use|.+_tool_result")
_DATA_URL = re.compile(r"data:([^;,]+);base64,(.*)", re.DOTALL)
_THOUGHTS = ("thinking", "redacted_thinking")


def to_openai_message(turn: Turn) -> dict[str, Any]:
    """Returns one turn as a chat message. A tool turn that answers no call is the user's."""
    content = _content(turn, _OPENAI_PARTS)
    if turn.role is Role.TOOL and turn.call_id:
        return {"role": "tool", "tool_call_id": turn.call_id, "content": content}
    role = Role.USER if turn.role is Role.TOOL else turn.role
    message: dict[str, Any] = {"role": role.value, "content": content}
    if turn.reasoning and not _thoughts(turn):
        message["reasoning_content"] = turn.reasoning
    if turn.calls:
        message["content"] = content or None
        message["tool_calls"] = [to_openai_call(call) for call in turn.calls]
    return message


def to_openai_call(call: ToolCall) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def to_anthropic_message(turn: Turn) -> dict[str, Any]:
    """Returns one turn as a message whose content is a list of blocks."""
    content = _content(turn, _ANTHROPIC_PARTS)
    blocks = ([{"type": "text", "text": content}] if content else []) if isinstance(content, str) else content
    if turn.role is Role.TOOL and turn.call_id:
        result = {"type": "tool_result", "tool_use_id": turn.call_id, "content": content}
        return {"role": "user", "content": [result | ({"is_error": True} if turn.is_error else {})]}
    if turn.role is not Role.ASSISTANT:
        return {"role": "user", "content": blocks}
    return {"role": "assistant", "content": [*_thoughts(turn), *blocks, *map(to_anthropic_call, turn.calls)]}


def to_anthropic_call(call: ToolCall) -> dict[str, Any]:
    return {"type": "tool_use", "id": call.id, "name": call.name, "input": parse_arguments(call)}


def parse_arguments(call: ToolCall) -> dict[str, Any]:
    """Returns the arguments of a call as an object; arguments that are none stand under the key `arguments`."""
    try:
        value = json.loads(call.arguments or "{}")
    except ValueError:
        value = None
    return value if isinstance(value, dict) else {"arguments": call.arguments}


def merge_messages(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Merges two Anthropic messages of one role; other fields are the first's, or the second's if the first has
    none.
    """
    blocks = [*_blocks(first.get("content")), *_blocks(second.get("content"))]
    if first["role"] == "user":
        blocks.sort(key=lambda block: _type(block) != "tool_result")
    return {**second, **first, "content": blocks}


def _parts(turn: Turn) -> list[dict[str, Any]]:
    """Returns the content parts in the reader's `extra`, in order."""
    parts = turn.extra.get("parts")
    if not isinstance(parts, dict):
        return []
    return [parts[key] for key in sorted(parts, key=lambda key: (len(key), key)) if isinstance(parts[key], dict)]


def _thoughts(turn: Turn) -> list[dict[str, Any]]:
    """Returns the thinking as Anthropic sent it. Without its signature it would be refused."""
    return [part for part in _parts(turn) if part.get("type") in _THOUGHTS and turn.reasoning]


def _content(turn: Turn, types: re.Pattern[str]) -> Any:
    """Returns the text, or the parts that the wire can carry with the text between them, if the text shows such
    parts.
    """
    parts = [_convert_image(part, types) for part in _parts(turn)]
    sent = [part for part in parts if types.fullmatch(str(part.get("type")))]
    filled = write_content(sent, turn.text)
    return filled if any(_type(part) != "text" for part in filled) else turn.text


def _convert_image(part: dict[str, Any], types: re.Pattern[str]) -> dict[str, Any]:
    """Converts an image to the shape of the other wire."""
    source, url = part.get("source"), part.get("image_url")
    if part.get("type") == "image" and types is _OPENAI_PARTS and isinstance(source, dict):
        data = f"data:{source.get('media_type')};base64,{source.get('data')}"
        return {"type": "image_url", "image_url": {"url": source.get("url") or data}}
    address = url.get("url") if isinstance(url, dict) else url
    if part.get("type") == "image_url" and types is _ANTHROPIC_PARTS and isinstance(address, str):
        found = _DATA_URL.fullmatch(address)
        if not found:
            return {"type": "image", "source": {"type": "url", "url": address}}
        return {"type": "image", "source": {"type": "base64", "media_type": found[1], "data": found[2]}}
    return part


def _blocks(content: Any) -> list[Any]:
    if isinstance(content, list):
        return content
    return [{"type": "text", "text": content}] if content else []


def _type(part: Any) -> Any:
    return part.get("type") if isinstance(part, dict) else None
