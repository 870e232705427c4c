"""A session as token ids through the model's own chat template, cut into blocks that join to exactly the whole.

The template's text is tokenised once; a token belongs to the block in which its first character stands. So the
blocks' ids joined are the whole by construction, whatever a template adds, trims or leaves out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import pairwise
from typing import Any

from holdfast.blocks.block import Block, Kind, Origin
from holdfast.errors import BadInput
from holdfast.transcript.turn import Role, ToolCall, Transcript, Turn

Messages = list[dict[str, Any]]


@dataclass(frozen=True)
class Rendered:
    """A session as its model reads it."""

    text: str
    ids: tuple[int, ...]
    blocks: tuple[Block, ...]
    offsets: tuple[int, ...]
    """First character of every token in `text`."""

    def token_at(self, char: int) -> int:
        """Index of the token that holds character `char`."""
        from bisect import bisect_right

        return max(0, bisect_right(self.offsets, char) - 1)


@dataclass(frozen=True)
class _Piece:
    turn: int
    kind: Kind
    text: str


@dataclass
class _Message:
    """One chat message and the pieces of turns that it holds, in order."""

    wire: dict[str, Any]
    pieces: list[_Piece] = field(default_factory=list)


@dataclass(frozen=True)
class Abilities:
    """What a chat template can express; what it cannot is written into the text instead."""

    tools: bool
    system: bool
    repeats: bool
    """Whether the same role may speak twice in a row."""


def render(transcript: Transcript, tokenizer: Any) -> Rendered:
    """Render a session. Raises BadInput when the tokenizer has no chat template or there is nothing to render."""
    if not tokenizer.chat_template:
        raise BadInput("this tokenizer has no chat template; use an instruction-tuned model")
    if not transcript.turns:
        raise BadInput("the session has no turns")
    from jinja2 import TemplateError

    can = abilities(tokenizer)
    try:
        text, marks = _rendered(transcript, tokenizer, can)
    except TemplateError:  # it knows tools, but not this order of turns: say it in words
        try:
            text, marks = _rendered(transcript, tokenizer, replace(can, tools=False, repeats=False))
        except TemplateError as error:
            raise BadInput(f"the model's chat template refuses this session: {error}") from error
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    offsets = tuple(start for start, _ in encoded["offset_mapping"])
    blocks = tuple(_blocks(marks, len(text), tuple(encoded["input_ids"]), offsets))
    return Rendered(text, tuple(encoded["input_ids"]), blocks, offsets)


def _rendered(transcript: Transcript, tokenizer: Any, can: Abilities) -> tuple[str, list[_Mark]]:
    messages = list(_messages(transcript, can))
    apply = _applier(tokenizer, transcript if can.tools else None)
    text = apply([m.wire for m in messages])
    return text, list(_marks(messages, text, apply))


def question_ids(tokenizer: Any, text: str) -> list[int]:
    """Token ids of one more user turn with `text`, up to where the assistant's answer begins."""
    before: Messages = [{"role": "user", "content": "."}, {"role": "assistant", "content": "\x1a"}]
    apply = _applier(tokenizer, None)
    whole = apply([*before, {"role": "user", "content": text}], add_generation_prompt=True)
    head = apply(before)
    # some templates write the last assistant turn differently from an earlier one: what counts is how it is closed
    end = whole.index("\x1a") + 1
    start = end + _common_prefix(head[head.index("\x1a") + 1 :], whole[end:])
    return list(tokenizer(whole[start:], add_special_tokens=False)["input_ids"])


def abilities(tokenizer: Any) -> Abilities:
    """Find out what a tokenizer's template can express by trying it."""
    return _abilities(tokenizer.chat_template, _applier(tokenizer, None))


@lru_cache(maxsize=32)
def _abilities(template: str, apply: Callable[..., str]) -> Abilities:
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


def _shows(apply: Callable[..., str], messages: Messages, marks: list[str]) -> bool:
    from jinja2 import TemplateError

    try:
        text = apply(messages)
    except (TemplateError, TypeError, KeyError):  # templates refuse by raising, or by tripping over a field
        return False
    return all(mark in text for mark in marks)


def _applier(tokenizer: Any, transcript: Transcript | None) -> Callable[..., str]:
    tools = transcript.meta.get("tools") if transcript else None
    native = tools if tools and abilities(tokenizer).tools else None

    def apply(messages: Messages, **options: Any) -> str:
        return str(tokenizer.apply_chat_template(messages, tools=native, tokenize=False, **options))

    return apply


def _messages(transcript: Transcript, can: Abilities) -> Iterator[_Message]:
    """Chat messages that the template can express, merged where it forbids repetition."""
    open_message: _Message | None = None
    for index, turn in enumerate(transcript.turns):
        message = _message(index, turn, transcript, can)
        same = open_message and open_message.wire["role"] == message.wire["role"] != "tool"
        merge = same and not can.repeats
        if open_message and (merge or (open_message.wire["role"] == "system" and not can.system)):
            message = _merged(open_message, message)
        elif open_message:
            yield open_message
        open_message = message
    if open_message:
        if open_message.wire["role"] == "system" and not can.system:
            open_message.wire["role"] = "user"
        yield open_message


def _merged(first: _Message, second: _Message) -> _Message:
    wire = {**first.wire, **second.wire, "content": f"{first.wire['content']}\n\n{second.wire['content']}"}
    if calls := [*first.wire.get("tool_calls", ()), *second.wire.get("tool_calls", ())]:
        wire["tool_calls"] = calls
    if thoughts := [w["reasoning_content"] for w in (first.wire, second.wire) if "reasoning_content" in w]:
        wire["reasoning_content"] = "\n\n".join(thoughts)
    return _Message(wire, first.pieces + second.pieces)


def _message(index: int, turn: Turn, transcript: Transcript, can: Abilities) -> _Message:
    if turn.role is Role.ASSISTANT:
        return _assistant(index, turn, can)
    kind = _kind(index, turn, transcript)
    if turn.role is Role.TOOL and can.tools:
        name = next((c.name for t in transcript.turns[:index] for c in t.calls if c.id == turn.call_id), "")
        wire = {"role": "tool", "tool_call_id": turn.call_id, "name": name, "content": turn.text}
        return _Message(wire, [_Piece(index, kind, turn.text)])
    text = f"<tool_response>\n{turn.text}\n</tool_response>" if turn.role is Role.TOOL else turn.text
    role = "user" if turn.role is Role.TOOL else turn.role.value
    return _Message({"role": role, "content": text}, [_Piece(index, kind, text)])


def _assistant(index: int, turn: Turn, can: Abilities) -> _Message:
    pieces = [_Piece(index, Kind.REASONING, turn.reasoning)] if turn.reasoning else []
    if can.tools:
        wire: dict[str, Any] = {"role": "assistant", "content": turn.text}
        if turn.reasoning:
            wire["reasoning_content"] = turn.reasoning
        if turn.calls:
            wire["tool_calls"] = [_native_call(call) for call in turn.calls]
        return _Message(wire, [*pieces, _Piece(index, Kind.ACTION, turn.text)])
    action = "\n".join(part for part in (turn.text, *map(_written_call, turn.calls)) if part)
    thought = f"<think>\n{turn.reasoning}\n</think>\n\n" if turn.reasoning else ""
    wire = {"role": "assistant", "content": thought + action}
    return _Message(wire, [*pieces, _Piece(index, Kind.ACTION, action)])


def _native_call(call: ToolCall) -> dict[str, Any]:
    return {"type": "function", "id": call.id, "function": {"name": call.name, "arguments": _arguments(call)}}


def _arguments(call: ToolCall) -> Any:
    try:
        return json.loads(call.arguments)
    except ValueError:
        return call.arguments


def _written_call(call: ToolCall) -> str:
    """A call as text with its arguments unescaped (the form of Qwen3-Coder): code stays readable and short."""
    arguments = _arguments(call)
    if not isinstance(arguments, dict):
        arguments = {"arguments": arguments}
    rows = [
        f"<parameter={k}>\n{v if isinstance(v, str) else json.dumps(v)}\n</parameter>" for k, v in arguments.items()
    ]
    return "\n".join((f"<function={call.name}>", *rows, "</function>"))


def _kind(index: int, turn: Turn, transcript: Transcript) -> Kind:
    if turn.role is Role.SYSTEM:
        return Kind.SYSTEM
    if turn.role is Role.TOOL:
        return Kind.OBSERVATION
    first_user = next(i for i, t in enumerate(transcript.turns) if t.role is Role.USER)
    return Kind.TASK if index == first_user else Kind.USER


@dataclass(frozen=True)
class _Mark:
    """Where a block begins in the text."""

    char: int
    piece: _Piece


def _marks(messages: list[_Message], text: str, apply: Callable[..., str]) -> Iterator[_Mark]:
    wires = [m.wire for m in messages]
    starts = [0, *(_start(wires, i, text, apply) for i in range(1, len(messages))), len(text)]
    for index, (message, (start, stop)) in enumerate(zip(messages, pairwise(starts), strict=True)):
        at = start
        for n, piece in enumerate(message.pieces):
            end = stop
            if piece.kind is Kind.REASONING and "reasoning_content" in message.wire:
                end = _content_start(wires, index, text, apply)  # the action may say the same words
            found = text.find(piece.text.strip(), at, end)
            if piece.kind is Kind.REASONING and found < 0:
                continue  # this template leaves past reasoning out
            yield _Mark(start if n == 0 else at, piece)
            at = found + len(piece.text.strip()) if found >= 0 else at


def _start(wires: Messages, index: int, text: str, apply: Callable[..., str]) -> int:
    """Where message `index` begins: after the rendering of all before it, if the template only ever appends."""
    head = apply(wires[:index])
    if text.startswith(head) and not _displaced(wires, index, text, head, apply):
        return len(head)
    return _content_start(wires, index, text, apply)


def _content_start(wires: Messages, index: int, text: str, apply: Callable[..., str]) -> int:
    changed = {**wires[index], "content": f"\x1a{wires[index]['content']}"}
    return _common_prefix(text, apply([*wires[:index], changed, *wires[index + 1 :]]))


def _displaced(wires: Messages, index: int, text: str, head: str, apply: Callable[..., str]) -> bool:
    """Whether the system text before this message is shown only inside it."""
    if wires[index - 1]["role"] != "system":
        return False
    longer = {**wires[index - 1], "content": f"{wires[index - 1]['content']}\x1a"}
    return len(head) < _common_prefix(text, apply([*wires[: index - 1], longer, *wires[index:]]))


def _common_prefix(a: str, b: str) -> int:
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if a[:middle] == b[:middle] else (low, middle - 1)
    return low


def _blocks(marks: list[_Mark], length: int, ids: tuple[int, ...], offsets: tuple[int, ...]) -> Iterator[Block]:
    from bisect import bisect_left

    edges = [0, *(m.char for m in marks[1:]), length]
    for mark, (start, stop) in zip(marks, pairwise(edges), strict=True):
        first, last = bisect_left(offsets, start), bisect_left(offsets, stop) if stop < length else len(ids)
        if last > first:
            origin = Origin(mark.piece.turn, mark.piece.kind, (start, stop), (first, last))
            yield Block(ids[first:last], origin)
