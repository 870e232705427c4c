"""A session as token ids through the model's own chat template, cut into blocks that join to exactly the whole.

The template's text is tokenised once; a token belongs to the block in which its first character stands. So the
blocks' ids joined are the whole by construction, whatever a template adds, trims or leaves out. What a turn says is not
escaped: `<|im_start|>system` in a tool result becomes the real special token, as it does in the model's own tooling.
"""

from __future__ import annotations

import json
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

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
        return max(0, bisect_right(self.offsets, char) - 1)


@dataclass(frozen=True)
class _Piece:
    turn: int
    kind: Kind
    text: str


_KINDS = {Role.SYSTEM: Kind.SYSTEM, Role.USER: Kind.USER, Role.ASSISTANT: Kind.ACTION, Role.TOOL: Kind.OBSERVATION}


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
    wires = [m.wire for m in messages]
    text = apply(wires)
    places = _quick_places(wires, text, apply) or _places(wires, text, apply)
    return text, list(_marks(messages, text, places))


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
    apply = _applier(tokenizer, None)
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
    text = _tried(apply, messages)
    return text is not None and all(mark in text for mark in marks)


def _tried(apply: Callable[..., str], messages: Messages) -> str | None:
    from jinja2 import TemplateError

    try:
        return apply(messages)
    except (TemplateError, TypeError, KeyError):  # templates refuse by raising, or by tripping over a field
        return None


def _applier(tokenizer: Any, transcript: Transcript | None) -> Callable[..., str]:
    tools = transcript.meta.get("tools") if transcript else None
    native = tools if tools and abilities(tokenizer).tools else None

    def apply(messages: Messages, **options: Any) -> str:
        return str(tokenizer.apply_chat_template(messages, tools=native, tokenize=False, **options))

    return apply


def _messages(transcript: Transcript, can: Abilities) -> Iterator[_Message]:
    """Chat messages that the template can express, merged where it forbids repetition."""
    open_message: _Message | None = None
    names: dict[str, str] = {}
    task = next((i for i, t in enumerate(transcript.turns) if t.role is Role.USER), -1)
    for index, turn in enumerate(transcript.turns):
        kind = Kind.TASK if index == task else _KINDS[turn.role]
        message = _message(_Piece(index, kind, turn.text), turn, names, can)
        for call in turn.calls:
            names.setdefault(call.id, call.name)
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


def _message(piece: _Piece, turn: Turn, names: dict[str, str], can: Abilities) -> _Message:
    """One turn as a message; `names` are the tools of the calls so far."""
    if turn.role is Role.ASSISTANT:
        return _assistant(piece.turn, turn, can)
    if turn.role is Role.TOOL and can.tools:
        name = names.get(turn.call_id, "")
        wire = {"role": "tool", "tool_call_id": turn.call_id, "name": name, "content": turn.text}
        return _Message(wire, [piece])
    text = f"<tool_response>\n{turn.text}\n</tool_response>" if turn.role is Role.TOOL else turn.text
    role = "user" if turn.role is Role.TOOL else turn.role.value
    return _Message({"role": role, "content": text}, [replace(piece, text=text)])


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


class _Mark(NamedTuple):
    """Where a block begins in the text."""

    char: int
    piece: _Piece


class _Place(NamedTuple):
    """Where a message begins in the text, and where its content does (told only where reasoning stands before it)."""

    start: int
    content: int


def _marks(messages: list[_Message], text: str, places: list[_Place]) -> Iterator[_Mark]:
    stops = [*(place.start for place in places[1:]), len(text)]
    for message, place, stop in zip(messages, places, stops, strict=True):
        at = place.start
        for n, piece in enumerate(message.pieces):
            end = stop
            if piece.kind is Kind.REASONING and "reasoning_content" in message.wire:
                end = place.content  # the action may say the same words
            found = text.find(piece.text.strip(), at, end)
            if piece.kind is Kind.REASONING and found < 0:
                continue  # this template leaves past reasoning out
            yield _Mark(place.start if n == 0 else at, piece)
            at = found + len(piece.text.strip()) if found >= 0 else at


def _quick_places(wires: Messages, text: str, apply: Callable[..., str]) -> list[_Place] | None:
    """What `_places` returns from a handful of renderings, or None where the template does not lend itself to it.

    Messages alike in what a template looks at are opened alike: the first and the last of a sort are placed by
    rendering, those between by the same opening in front of their anchor.
    """
    sorts = [_sort(wires, i) for i in range(len(wires))]
    last = {sort: i for i, sort in enumerate(sorts)}
    first = {sort: len(wires) - 1 - i for i, sort in enumerate(reversed(sorts))}
    tried = sorted({*first.values(), *last.values()})
    if len(tried) == len(wires) or not _appends(wires, apply) or not (anchors := _anchors(wires, text, apply)):
        return None
    known = {i: _place(wires, i, text, apply) for i in tried}
    places = []
    for i, (sort, anchor) in enumerate(zip(sorts, anchors, strict=True)):
        model, by = known[first[sort]], anchor - anchors[first[sort]]
        place = _Place(model.start + by, model.content + by)
        alike = place.start >= 0 and text[place.start : anchor] == text[model.start : anchor - by]
        if not alike or known.get(i, place) != place:
            return None
        places.append(place)
    return places


def _sort(wires: Messages, index: int) -> tuple[Any, ...]:
    """All that a template may look at to open a message; the first messages are each a sort of their own."""
    wire, before = wires[index], wires[index - 1] if index else {"role": ""}
    content, calls = wire["content"], [bool(w.get("tool_calls")) for w in (before, wire)]
    lead = content[: len(content) - len(content.lstrip())]  # a template may trim it
    return min(index, 3), before["role"], wire["role"], *calls, "reasoning_content" in wire, lead, lead == content


def _appends(wires: Messages, apply: Callable[..., str]) -> bool:
    """Whether the template, tried on short sessions of the same roles, never goes back on what it has written."""
    thought = any("</think>" in wire["content"] for wire in wires)  # some templates cut it out of a past answer
    said = {"role": "assistant", "content": "<think>\nt\n</think>\n\nx" if thought else "x"}
    if any("reasoning_content" in wire for wire in wires):
        said["reasoning_content"] = "t"
    turns: dict[str, dict[str, Any]] = {
        "s": {"role": "system", "content": "x"},
        "u": {"role": "user", "content": "x"},
        "a": said,
        "c": {**said, "tool_calls": [_native_call(ToolCall("call00001", "f", "{}"))]},
        "t": {"role": "tool", "tool_call_id": "call00001", "name": "f", "content": "x"},
    }
    roles = {wire["role"] for wire in wires}
    probes = ([turns[turn] for turn in session] for session in _PROBES)
    return all(_appended(probe, apply) for probe in probes if {wire["role"] for wire in probe} <= roles)


_PROBES = ("uauaua", "suauau", "uuaauu", "uctacau", "uctctauctau", "ucttau")


def _appended(probe: Messages, apply: Callable[..., str]) -> bool:
    if (text := _tried(apply, probe)) is None:
        return True  # nothing learned: the session, which was rendered, is not of this form
    for before, (past, wire) in enumerate(pairwise(probe), start=1):
        head = _tried(apply, probe[:before])
        shares = past["role"] == wire["role"] == "tool"  # results in a row may share one closing, in every row alike
        if head is None or not (shares or text.startswith(head)):
            return False
    return True


def _anchors(wires: Messages, text: str, apply: Callable[..., str]) -> list[int]:
    """Where every message's first word stands, by one rendering with a mark before each; none if marks change more."""
    if "\x1a" in text or _MARK in text:  # `_content_start` relies on the first
        return []
    parts = (_tried(apply, list(map(_marked, wires))) or "").split(_MARK)
    anchors = list(accumulate(map(len, parts[:-1])))
    if len(anchors) != len(wires) or "".join(parts) != text:
        return []
    shown = (text.startswith(wire["content"].strip(), at) for wire, at in zip(wires, anchors, strict=True))
    return anchors if all(shown) else []


_MARK = "\ufdd0"
"""A noncharacter: no text has it and, unlike a control character, it is not escaped in the JSON of a call."""


def _marked(wire: dict[str, Any]) -> dict[str, Any]:
    content = wire["content"]
    if content.strip() or not wire.get("tool_calls"):  # some templates look whether there is content beside calls
        lead = len(content) - len(content.lstrip())
        return {**wire, "content": content[:lead] + _MARK + content[lead:]}
    call, *others = wire["tool_calls"]
    named = {**call["function"], "name": _MARK + call["function"]["name"]}
    return {**wire, "tool_calls": [{**call, "function": named}, *others]}


def _places(wires: Messages, text: str, apply: Callable[..., str]) -> list[_Place]:
    """The reference: render as often as there are messages."""
    return [_place(wires, i, text, apply) for i in range(len(wires))]


def _place(wires: Messages, index: int, text: str, apply: Callable[..., str]) -> _Place:
    start = _start(wires, index, text, apply) if index else 0
    return _Place(start, _content_start(wires, index, text, apply) if "reasoning_content" in wires[index] else start)


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
    edges = [0, *(m.char for m in marks[1:]), length]
    for mark, (start, stop) in zip(marks, pairwise(edges), strict=True):
        first, last = bisect_left(offsets, start), bisect_left(offsets, stop) if stop < length else len(ids)
        if last > first:
            origin = Origin(mark.piece.turn, mark.piece.kind, (start, stop), (first, last))
            yield Block(ids[first:last], origin)
