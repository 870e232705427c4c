"""A session's turns as the chat messages that a template can express. What it cannot express is written in words."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from holdfast.blocks.block import Kind
from holdfast.transcript.task import find_first_request
from holdfast.transcript.turn import Role, ToolCall, Transcript, Turn

Messages = list[dict[str, Any]]


@dataclass(frozen=True)
class Piece:
    turn: int
    kind: Kind
    text: str


_KINDS = {Role.SYSTEM: Kind.SYSTEM, Role.USER: Kind.USER, Role.ASSISTANT: Kind.ACTION, Role.TOOL: Kind.OBSERVATION}


@dataclass
class Message:
    """One chat message and the pieces of turns that it holds, in order."""

    wire: dict[str, Any]
    pieces: list[Piece] = field(default_factory=list)


@dataclass(frozen=True)
class Abilities:
    """The abilities of a chat template; what it cannot express is written into the text instead."""

    tools: bool
    system: bool
    repeats: bool
    """True if the same role may speak twice in a row."""


def probe_abilities(tokenizer: Any) -> Abilities:
    """Finds out what a tokenizer's template can express by trying it."""
    apply = applier(tokenizer, None)
    user, reply = {"role": "user", "content": "mark-user"}, {"role": "assistant", "content": "mark-reply"}
    call = {
        "type": "function",
        "id": "call00001",
        "function": {"name": "markname", "arguments": {"k": "markarg"}},
    }
    called = {"role": "assistant", "content": "mark-text", "tool_calls": [call]}
    result = {"role": "tool", "tool_call_id": "call00001", "name": "markname", "content": "mark-result"}
    return Abilities(
        tools=_shows(apply, [user, called, result, reply], ["mark-text", "markname", "markarg", "mark-result"]),
        system=_shows(apply, [{"role": "system", "content": "mark-system"}, user], ["mark-system"]),
        repeats=_shows(apply, [user, {"role": "user", "content": "mark-again"}, reply], ["mark-user", "mark-again"]),
    )


def shows_tools(tokenizer: Any) -> bool:
    """Returns True if the tokenizer's template writes the tools that a session offers."""
    tool = {"type": "function", "function": {"name": "markname", "description": "mark", "parameters": {}}}
    apply = applier(tokenizer, Transcript((), meta={"tools": [tool]}))
    text = try_template(apply, [{"role": "user", "content": "mark-user"}])
    return text is not None and "markname" in text


def _shows(apply: Callable[..., str], messages: Messages, marks: list[str]) -> bool:
    text = try_template(apply, messages)
    return text is not None and all(mark in text for mark in marks)


def try_template(apply: Callable[..., str], messages: Messages) -> str | None:
    from jinja2 import TemplateError

    try:
        return apply(messages)
    except (TemplateError, TypeError, KeyError):  # templates refuse by raising, or by tripping over a field
        return None


def applier(tokenizer: Any, transcript: Transcript | None) -> Callable[..., str]:
    tools = transcript.meta.get("tools") if transcript else None
    native = tools if tools and probe_abilities(tokenizer).tools else None

    def apply(messages: Messages, **options: Any) -> str:
        return str(tokenizer.apply_chat_template(messages, tools=native, tokenize=False, **options))

    return apply


def chat_messages(transcript: Transcript, can: Abilities) -> Iterator[Message]:
    """Yields chat messages that the template can express, merged where it forbids two of one role in a row."""
    open_message: Message | None = None
    names: dict[str, str] = {}
    task = find_first_request(transcript.turns)
    for index, turn in enumerate(transcript.turns):
        kind = Kind.TASK if index == task else _KINDS[turn.role]
        message = _make_message(Piece(index, kind, turn.text), turn, names, can)
        for call in turn.calls:
            names.setdefault(call.id, call.name)
        same = open_message and open_message.wire["role"] == message.wire["role"] != "tool"
        merge = same and not can.repeats
        if open_message and (merge or (open_message.wire["role"] == "system" and not can.system)):
            message = _merge(open_message, message)
        elif open_message:
            yield open_message
        open_message = message
    if open_message:
        if open_message.wire["role"] == "system" and not can.system:
            open_message.wire["role"] = "user"
        yield open_message


def _merge(first: Message, second: Message) -> Message:
    wire = {**first.wire, **second.wire, "content": f"{first.wire['content']}\n\n{second.wire['content']}"}
    if calls := [*first.wire.get("tool_calls", ()), *second.wire.get("tool_calls", ())]:
        wire["tool_calls"] = calls
    if thoughts := [w["reasoning_content"] for w in (first.wire, second.wire) if "reasoning_content" in w]:
        wire["reasoning_content"] = "\n\n".join(thoughts)
    return Message(wire, first.pieces + second.pieces)


def _make_message(piece: Piece, turn: Turn, names: dict[str, str], can: Abilities) -> Message:
    """Returns one turn as a message; `names` are the tools of the calls so far."""
    if turn.role is Role.ASSISTANT:
        return _assistant(piece.turn, turn, can)
    if turn.role is Role.TOOL and can.tools:
        name = names.get(turn.call_id, "")
        wire = {"role": "tool", "tool_call_id": turn.call_id, "name": name, "content": turn.text}
        return Message(wire, [piece])
    text = f"<tool_response>\n{turn.text}\n</tool_response>" if turn.role is Role.TOOL else turn.text
    role = "user" if turn.role is Role.TOOL else turn.role.value
    return Message({"role": role, "content": text}, [replace(piece, text=text)])


def _assistant(index: int, turn: Turn, can: Abilities) -> Message:
    pieces = [Piece(index, Kind.REASONING, turn.reasoning)] if turn.reasoning else []
    if can.tools:
        wire: dict[str, Any] = {"role": "assistant", "content": turn.text}
        if turn.reasoning:
            wire["reasoning_content"] = turn.reasoning
        if turn.calls:
            wire["tool_calls"] = [native_call(call) for call in turn.calls]
        return Message(wire, [*pieces, Piece(index, Kind.ACTION, turn.text)])
    action = "\n".join(part for part in (turn.text, *map(_call_as_text, turn.calls)) if part)
    thought = f"<think>\n{turn.reasoning}\n</think>\n\n" if turn.reasoning else ""
    wire = {"role": "assistant", "content": thought + action}
    return Message(wire, [*pieces, Piece(index, Kind.ACTION, action)])


def native_call(call: ToolCall) -> dict[str, Any]:
    return {"type": "function", "id": call.id, "function": {"name": call.name, "arguments": _arguments(call)}}


def _arguments(call: ToolCall) -> Any:
    try:
        return json.loads(call.arguments)
    except ValueError:
        return call.arguments


def _call_as_text(call: ToolCall) -> str:
    """Returns a call as text with its arguments unescaped (the form of Qwen3-Coder): code stays readable and short."""
    arguments = _arguments(call)
    if not isinstance(arguments, dict):
        arguments = {"arguments": arguments}
    rows = [
        f"<parameter={k}>\n{v if isinstance(v, str) else json.dumps(v)}\n</parameter>" for k, v in arguments.items()
    ]
    return "\n".join((f"<function={call.name}>", *rows, "</function>"))
