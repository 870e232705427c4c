"""Cline's stored conversations: Anthropic messages with its own fields, bare or under "messages".

The older layout has no tool blocks: the call is XML in the model's text, the result a user message that begins
`[tool for 'x'] Result:`. There the call is made of the XML, and the result becomes a tool turn; what the user
wrote into such a message stays a user turn.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any
from zlib import crc32

from holdfast.transcript.content import write_content
from holdfast.transcript.document import Document, Entry
from holdfast.transcript.draft import Draft
from holdfast.transcript.formats import anthropic, anthropic_write, openai_chat
from holdfast.transcript.formats.apply_draft import Change, apply_draft, pack_entries, render_file, unpack_entries
from holdfast.transcript.json_fields import to_json_text
from holdfast.transcript.provider_requests import parse_arguments
from holdfast.transcript.turn import Role, ToolCall, Transcript, Turn

_OWN_FIELDS = ("modelInfo", "metrics")
_RESULT = re.compile(r"\[([a-z_]+)(?: for .*?)?\] Result:", re.DOTALL)
_USER_WORDS = re.compile(r"<(?:feedback|answer|user_message)>")
_FIELD = re.compile(r"<([a-z_]+)>(.*?)</\1>", re.DOTALL)


def sniff(document: Document) -> bool:
    messages = openai_chat.chat_messages(document)
    if openai_chat.has_own_marks(messages):
        return False
    value = document.value if isinstance(document.value, dict) else {}
    own = "sessionId" in value and not value.keys().isdisjoint(("system_prompt", "agent"))
    stored = isinstance(value.get("messages"), list) and own
    if stored or any(field in message for message in messages for field in _OWN_FIELDS):
        return True
    return any(_is_old(message) for message in messages)


def _is_old(message: dict[str, Any]) -> bool:
    """Returns True for marks of a bare list: the task in its tags, or the result of a call in the text."""
    texts = _texts(message.get("content")) if message["role"] == "user" else []
    return any(text.startswith(("<task>", "<environment_details>")) or _RESULT.match(text) for text in texts)


def _texts(content: object) -> list[str]:
    parts = content if isinstance(content, list) else [content]
    texts = [part.get("text") if isinstance(part, dict) else part for part in parts]
    return [text for text in texts if isinstance(text, str)]


def read(document: Document) -> Transcript:
    whole = anthropic.read(replace(document, value=_top_level(document), lines=()))
    groups, skipped = document.read_each(document.entries, _turns)
    return Transcript((*whole.turns, *_add_text_calls(groups)), "cline", whole.meta, skipped)


def _top_level(document: Document) -> dict[str, Any]:
    """Returns the fields beside the messages, the system prompt among them."""
    value = document.value if isinstance(document.value, dict) else {}
    return {key: held for key, held in value.items() if key != "messages"}


def _turns(entry: Entry) -> tuple[Turn, ...]:
    """Returns the turns of one message; one that holds a result as text becomes a tool turn and the words that the user
    added.
    """
    if not _is_text_result(entry.value):
        return anthropic.turns_of(entry.value, entry.number)
    told, said = _split_result(entry.value)
    (result,) = anthropic.turns_of({**entry.value, "content": told}, entry.number)
    match = _RESULT.match(result.text)
    head = match.group(0) if match else ""
    text = result.text.removeprefix(head).removeprefix("\n")
    user = anthropic.turns_of({"role": "user", "content": said}, entry.number) if said else ()
    return (replace(result, role=Role.TOOL, text=text, extra={**result.extra, "result": head}), *user)


def _is_text_result(message: object) -> bool:
    if not isinstance(message, dict) or message.get("role") != "user":
        return False
    content = message.get("content")
    parts = content if isinstance(content, list) else [content]
    texts = _texts(content)
    return bool(texts) and bool(_RESULT.match(texts[0])) and not any(map(anthropic.is_result, parts))


def _split_result(message: dict[str, Any]) -> tuple[list[Any], list[Any]]:
    """Returns the parts that hold the result, and those in which the user speaks."""
    content = message["content"]
    parts = [part if isinstance(part, dict) else {"type": "text", "text": part} for part in _as_list(content)]
    said = [part for part in parts if any(_USER_WORDS.search(text) for text in _texts([part]))]
    return [part for part in parts if part not in said], said


def _as_list(content: object) -> list[Any]:
    if isinstance(content, list):
        return content
    return [] if content is None else [content]


def _add_text_calls(groups: Iterable[tuple[Turn, ...]]) -> tuple[Turn, ...]:
    """Gives the assistant turn before a tool turn that came as text the call that it answers."""
    done: list[Turn] = []
    for group in groups:
        for turn in group:
            before = done[-1] if done else None
            if turn.role is Role.TOOL and not turn.call_id and before and before.role is Role.ASSISTANT:
                text, call = _parse_call(before.text, str(turn.extra.get("result")))
                done[-1] = replace(before, text=text, calls=(*before.calls, call))
                turn = replace(turn, call_id=call.id)  # noqa: PLW2901
            done.append(turn)
    return tuple(done)


def _parse_call(text: str, head: str) -> tuple[str, ToolCall]:
    """Returns the text without its call, and the call, whose name the head of the result gives."""
    match = _RESULT.match(head)
    name = match.group(1) if match else "tool"
    body = re.search(rf"\s*<{name}>(.*?)(?:</{name}>|$)", text, re.DOTALL)
    fields = dict(_FIELD.findall(body.group(1))) if body else {}
    arguments = json.dumps({key: value.strip("\n") for key, value in fields.items()}, ensure_ascii=False)
    rest = text[: body.start()] + text[body.end() :] if body else text
    return rest, ToolCall(f"call_{crc32(f'{name} {arguments}'.encode()):08x}", name, arguments)


def write(document: Document, held: Draft) -> str:
    if not any(_is_text_result(entry.value) for entry in document.entries):
        return anthropic_write.write(document, held)
    return render_file(document, unpack_entries(document.entries, apply_draft(document.entries, held, _edit, _new)))


def _edit(values: list[Any], changes: tuple[Change, ...]) -> Sequence[Any]:
    """Returns one message of the older layout. A new turn inside it splits it, so that it stays a turn of its own."""
    (value,) = values
    result = _is_text_result(value)
    told, said = _split_result(value) if result else ([], _as_list(value.get("content")))
    messages: list[Any] = [{**value, "content": []}]
    for change in changes:
        raw, new = change.raw, change.new
        if new is None:
            continue
        if raw is None:
            messages += [_new(new, value), {**value, "content": []}]
        elif result and raw.role is Role.TOOL:
            parts = told if raw == new else [_text_part(str(raw.extra.get("result"))), _text_part(new.text)]
            messages[-1]["content"] += parts
        elif result and raw != new and not _USER_WORDS.search(new.text):
            # Without its tag it would be read as part of the result.
            messages.append({"role": "user", "content": _as_list(write_content(said, new.text))})
        else:
            messages[-1]["content"] += said if raw == new else _as_list(write_content(said, _render_turn(new)))
    return pack_entries([message for message in messages if message["content"]], 1)


def _text_part(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _render_turn(turn: Turn) -> str:
    """Returns a turn's text with its calls as the model writes them."""
    return "\n\n".join(filter(None, (turn.text, *map(_xml, turn.calls))))


def _xml(call: ToolCall) -> str:
    fields = "".join(f"<{key}>{to_json_text(value)}</{key}>\n" for key, value in parse_arguments(call).items())
    return f"<{call.name}>\n{fields}</{call.name}>"


def _new(turn: Turn, _near: Any) -> Any:
    role = "assistant" if turn.role is Role.ASSISTANT else "user"
    return {"role": role, "content": [_text_part(_render_turn(turn))]}
