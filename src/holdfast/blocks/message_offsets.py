"""The offset of each message of a rendered session: for all at once if a template only appends, else one by one."""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

from holdfast.blocks.messages import Messages, native_call, try_template
from holdfast.transcript.turn import ToolCall


class MessageOffsets(NamedTuple):
    """The offsets at which a message and its content begin in the text. The latter is known only if reasoning stands
    before it.
    """

    start: int
    content: int


def quick_message_offsets(wires: Messages, text: str, apply: Callable[..., str]) -> list[MessageOffsets] | None:
    """Returns what `message_offsets` does from a handful of renderings, or None if the template does not allow it.

    Messages alike in what a template looks at are opened alike: the first and the last of a sort are placed by
    rendering, those between by the same opening in front of their anchor.
    """
    sorts = [_opening_key(wires, i) for i in range(len(wires))]
    last = {sort: i for i, sort in enumerate(sorts)}
    first = {sort: len(wires) - 1 - i for i, sort in enumerate(reversed(sorts))}
    tried = sorted({*first.values(), *last.values()})
    if (
        len(tried) == len(wires)
        or not _only_appends(wires, apply)
        or not (anchors := _find_anchors(wires, text, apply))
    ):
        return None
    known = {i: _message_offsets(wires, i, text, apply) for i in tried}
    places = []
    for i, (sort, anchor) in enumerate(zip(sorts, anchors, strict=True)):
        model, by = known[first[sort]], anchor - anchors[first[sort]]
        place = MessageOffsets(model.start + by, model.content + by)
        alike = place.start >= 0 and text[place.start : anchor] == text[model.start : anchor - by]
        if not alike or known.get(i, place) != place:
            return None
        places.append(place)
    return places


def _opening_key(wires: Messages, index: int) -> tuple[Any, ...]:
    """Returns all that a template may look at to open a message; the first messages each have a key of their own."""
    wire, before = wires[index], wires[index - 1] if index else {"role": ""}
    content, calls = wire["content"], [bool(w.get("tool_calls")) for w in (before, wire)]
    lead = content[: len(content) - len(content.lstrip())]  # a template may trim it
    return min(index, 3), before["role"], wire["role"], *calls, "reasoning_content" in wire, lead, lead == content


def _only_appends(wires: Messages, apply: Callable[..., str]) -> bool:
    """Returns True if the template, tried on short sessions of the same roles, never changes what it has written."""
    thought = any("</think>" in wire["content"] for wire in wires)  # some templates cut it out of a past answer
    said = {"role": "assistant", "content": "<think>\nt\n</think>\n\nx" if thought else "x"}
    if any("reasoning_content" in wire for wire in wires):
        said["reasoning_content"] = "t"
    turns: dict[str, dict[str, Any]] = {
        "s": {"role": "system", "content": "x"},
        "u": {"role": "user", "content": "x"},
        "a": said,
        "c": {**said, "tool_calls": [native_call(ToolCall("call00001", "f", "{}"))]},
        "t": {"role": "tool", "tool_call_id": "call00001", "name": "f", "content": "x"},
    }
    roles = {wire["role"] for wire in wires}
    probes = ([turns[turn] for turn in session] for session in _PROBES)
    return all(_appends_on_probe(probe, apply) for probe in probes if {wire["role"] for wire in probe} <= roles)


_PROBES = ("uauaua", "suauau", "uuaauu", "uctacau", "uctctauctau", "ucttau")


def _appends_on_probe(probe: Messages, apply: Callable[..., str]) -> bool:
    if (text := try_template(apply, probe)) is None:
        return True  # nothing learned: the session, which was rendered, is not of this form
    for before, (past, wire) in enumerate(pairwise(probe), start=1):
        head = try_template(apply, probe[:before])
        shares = past["role"] == wire["role"] == "tool"  # results in a row may share one closing, in every row alike
        if head is None or not (shares or text.startswith(head)):
            return False
    return True


def _find_anchors(wires: Messages, text: str, apply: Callable[..., str]) -> list[int]:
    """Returns the offset of every message's first word, by one rendering with a mark before each; none if marks change
    more.
    """
    if "\x1a" in text or _MARK in text:  # `_content_start` relies on the first
        return []
    parts = (try_template(apply, list(map(_add_mark, wires))) or "").split(_MARK)
    anchors = list(accumulate(map(len, parts[:-1])))
    if len(anchors) != len(wires) or "".join(parts) != text:
        return []
    shown = (text.startswith(wire["content"].strip(), at) for wire, at in zip(wires, anchors, strict=True))
    return anchors if all(shown) else []


_MARK = "\ufdd0"
"""A noncharacter: no text has it and, unlike a control character, it is not escaped in the JSON of a call."""


def _add_mark(wire: dict[str, Any]) -> dict[str, Any]:
    content = wire["content"]
    if content.strip() or not wire.get("tool_calls"):  # some templates look whether there is content beside calls
        lead = len(content) - len(content.lstrip())
        return {**wire, "content": content[:lead] + _MARK + content[lead:]}
    call, *others = wire["tool_calls"]
    named = {**call["function"], "name": _MARK + call["function"]["name"]}
    return {**wire, "tool_calls": [{**call, "function": named}, *others]}


def message_offsets(wires: Messages, text: str, apply: Callable[..., str]) -> list[MessageOffsets]:
    """Returns the offsets by as many renderings as there are messages: the reference."""
    return [_message_offsets(wires, i, text, apply) for i in range(len(wires))]


def _message_offsets(wires: Messages, index: int, text: str, apply: Callable[..., str]) -> MessageOffsets:
    start = _message_start(wires, index, text, apply) if index else 0
    return MessageOffsets(
        start, _content_start(wires, index, text, apply) if "reasoning_content" in wires[index] else start
    )


def _message_start(wires: Messages, index: int, text: str, apply: Callable[..., str]) -> int:
    """Returns where message `index` begins: after the rendering of all before it if the template only appends."""
    head = apply(wires[:index])
    if text.startswith(head) and not _is_inside(wires, index, text, head, apply):
        return len(head)
    return _content_start(wires, index, text, apply)


def _content_start(wires: Messages, index: int, text: str, apply: Callable[..., str]) -> int:
    changed = {**wires[index], "content": f"\x1a{wires[index]['content']}"}
    return common_prefix(text, apply([*wires[:index], changed, *wires[index + 1 :]]))


def _is_inside(wires: Messages, index: int, text: str, head: str, apply: Callable[..., str]) -> bool:
    """Returns True if the system text before this message is rendered only inside it."""
    if wires[index - 1]["role"] != "system":
        return False
    longer = {**wires[index - 1], "content": f"{wires[index - 1]['content']}\x1a"}
    return len(head) < common_prefix(text, apply([*wires[: index - 1], longer, *wires[index:]]))


def common_prefix(a: str, b: str) -> int:
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if a[:middle] == b[:middle] else (low, middle - 1)
    return low
