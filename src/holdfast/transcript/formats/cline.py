"""Cline's stored conversations: Anthropic messages with its own fields, bare or under "messages".

The older layout has no tool blocks: the call is XML in the model's text, the result a user message that begins
`[tool for 'x'] Result:`. There the call is made of the XML, and the result becomes a tool turn; what the user
wrote into such a message stays a user turn.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from holdfast.transcript.document import Document, Entry
from holdfast.transcript.formats import anthropic, openai_chat
from holdfast.transcript.turn import Role, ToolCall, Transcript, Turn

_OWN_FIELDS = ("modelInfo", "metrics")
_RESULT = re.compile(r"\[([a-z_]+)(?: for .*?)?\] Result:", re.DOTALL)
_USER_WORDS = re.compile(r"<(?:feedback|answer|user_message)>")
_FIELD = re.compile(r"<([a-z_]+)>(.*?)</\1>", re.DOTALL)


def sniff(document: Document) -> bool:
    messages = openai_chat.chat_messages(document)
    if not messages or openai_chat.has_own_marks(messages):
        return False
    value = document.value if isinstance(document.value, dict) else {}
    if {"sessionId", "system_prompt"} <= value.keys() or any(f in m for m in messages for f in _OWN_FIELDS):
        return True
    return any(_is_old(message) for message in messages)


def _is_old(message: dict[str, Any]) -> bool:
    """What a bare list still shows: the task in its tags, or the result of a call in the text."""
    texts = _texts(message.get("content")) if message["role"] == "user" else []
    return any(text.startswith(("<task>", "<environment_details>")) or _RESULT.match(text) for text in texts)


def _texts(content: object) -> list[str]:
    parts = content if isinstance(content, list) else [content]
    texts = [part.get("text") if isinstance(part, dict) else part for part in parts]
    return [text for text in texts if isinstance(text, str)]


def read(document: Document) -> Transcript:
    whole = anthropic.read(document)
    groups, skipped = document.read_each(document.entries, _turns)
    head = tuple(turn for turn in whole.turns if turn.source == 0)
    turns = (*head, *_with_text_calls(groups))
    return Transcript(turns, "cline", whole.meta, skipped)


def _turns(entry: Entry) -> tuple[Turn, ...]:
    """The turns of one message; one that holds a result as text becomes a tool turn and what the user added."""
    texts = _texts(entry.value.get("content")) if isinstance(entry.value, dict) else []
    if not texts or entry.value.get("role") != "user" or not _RESULT.match(texts[0]):
        return anthropic.turns_of(entry.value, entry.number)
    content = entry.value["content"]
    parts = content if isinstance(content, list) else [content]
    said = [part for part in parts if any(_USER_WORDS.search(text) for text in _texts([part]))]
    told = [part for part in parts if part not in said]
    (result,) = anthropic.turns_of({**entry.value, "content": told}, entry.number)
    user = anthropic.turns_of({"role": "user", "content": said}, entry.number) if said else ()
    return (replace(result, role=Role.TOOL), *user)


def _with_text_calls(groups: Iterable[tuple[Turn, ...]]) -> tuple[Turn, ...]:
    """Where a tool turn came as text, the assistant turn before it gets the call that it answers."""
    done: list[Turn] = []
    for group in groups:
        for turn in group:
            before = done[-1] if done else None
            if turn.role is Role.TOOL and not turn.call_id and before and before.role is Role.ASSISTANT:
                call = _call(before, turn)
                done[-1] = replace(before, calls=(*before.calls, call))
                turn = replace(turn, call_id=call.id)  # noqa: PLW2901
            done.append(turn)
    return tuple(done)


def _call(said: Turn, result: Turn) -> ToolCall:
    """The call in the model's text, which the result names."""
    match = _RESULT.match(result.text)
    name = match.group(1) if match else "tool"
    body = re.search(rf"<{name}>(.*?)(?:</{name}>|$)", said.text, re.DOTALL)
    fields = dict(_FIELD.findall(body.group(1))) if body else {}
    arguments = {key: value.strip("\n") for key, value in fields.items()}
    return ToolCall(f"call_{said.source}_0", name, json.dumps(arguments, ensure_ascii=False))
