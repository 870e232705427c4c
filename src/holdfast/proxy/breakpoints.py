"""Anthropic's cache breakpoints: those of the client kept where their blocks are kept, ours placed where there is room.

A client moves its breakpoints from request to request, so a history is read without them. What stands before a
breakpoint is cached; ours are, while there are fewer than four, at the ends of the newest user message, of the user
message before it (where the request before ended, so that its entry is found again however many blocks came since),
of the system prompt and of the tools. As the history grows they only move on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from holdfast.proxy.wires import Body

KEY = "cache_control"
MOST = 4
"""Breakpoints that a request may have."""
_PLAIN = {"type": "ephemeral"}
_MARKABLE = ("text", "image", "document", "tool_use", "tool_result")

Where = tuple[str | int, ...]
"""From the body to a block, or to a text that stands in place of its only block."""
Marks = dict[int, Any]
"""The id of the object that a breakpoint stood on, without it -> the breakpoint."""


def lift(entry: Any, marks: Marks) -> Any:
    """Returns a message, block or list of them without breakpoints, which go to `marks`.

    The result must outlive `marks`, which knows its objects by their id.
    """
    if isinstance(entry, list):
        return [lift(item, marks) for item in entry]
    if not isinstance(entry, dict):
        return entry
    bare = {key: value for key, value in entry.items() if key != KEY}
    if isinstance(bare.get("content"), list):
        bare["content"] = lift(bare["content"], marks)
    if entry.get(KEY) is not None:
        marks[id(bare)] = entry[KEY]
    return bare


def put_back(entry: Any, marks: Marks) -> Any:
    """Returns what `lift` returned with its breakpoints; those of what is no longer there are gone."""
    if isinstance(entry, list):
        return [put_back(item, marks) for item in entry]
    if not isinstance(entry, dict):
        return entry
    copy = {**entry, KEY: marks[id(entry)]} if id(entry) in marks else dict(entry)
    if isinstance(copy.get("content"), list):
        copy["content"] = put_back(copy["content"], marks)
    return copy


def place(body: Body) -> Body:
    """Returns the body with breakpoints of ours beside the client's; itself if there is no room or nothing to mark."""
    standing = list(_standing(body))
    automatic = body.get(KEY) is not None  # one that the provider puts at the end of the prompt
    taken = {_part(path) for path, _ in standing}
    targets = [path for path in [*_targets(body)][automatic:] if _part(path) not in taken]
    for path in targets[: max(0, MOST - len(standing) - automatic)]:
        # A breakpoint that lives longer may not stand behind one that lives shorter.
        behind = (mark for other, mark in standing if _order(other) > _order(path))
        body = _mark(body, path, next(behind, _PLAIN))
    return body


def _part(path: Where) -> Where:
    """Returns the part of the prompt that a path is in: the tools, the system prompt, or one message."""
    return path[: 2 if path[0] == "messages" else 1]


def _order(path: Where) -> tuple[int, ...]:
    """Returns a sort key by the order of the prompt: tools, system, messages."""
    return (("tools", "system", "messages").index(str(path[0])), *(at for at in path[1:] if isinstance(at, int)))


def _standing(body: Body) -> Iterator[tuple[Where, Any]]:
    """Yields the breakpoints that a body has, in the order of the prompt."""
    for name in ("tools", "system", "messages"):
        yield from _find(body.get(name), (name,))


def _find(entry: Any, path: Where) -> Iterator[tuple[Where, Any]]:
    if isinstance(entry, list):
        for at, item in enumerate(entry):
            yield from _find(item, (*path, at))
    elif isinstance(entry, dict):
        yield from _find(entry["content"], (*path, "content")) if isinstance(entry.get("content"), list) else ()
        if entry.get(KEY) is not None:
            yield path, entry[KEY]


def _targets(body: Body) -> Iterator[Where]:
    """Yields the paths where our breakpoints go, the most wanted first."""
    given = body.get("messages")
    messages = given if isinstance(given, list) else []
    users = [at for at, message in enumerate(messages) if isinstance(message, dict) and message.get("role") == "user"]
    places = [(messages[at].get("content"), ("messages", at, "content")) for at in reversed(users[-2:])]
    for entry, path in (*places, (body.get("system"), ("system",))):
        if isinstance(entry, str) and entry.strip():
            yield path
        elif isinstance(entry, list):
            ends = (at for at in reversed(range(len(entry))) if _markable(entry[at]))
            yield from ((*path, at) for at in [*ends][:1])
    tools = body.get("tools")
    if isinstance(tools, list) and tools and isinstance(tools[-1], dict) and not tools[-1].get("defer_loading"):
        yield ("tools", len(tools) - 1)


def _markable(block: Any) -> bool:
    if not isinstance(block, dict) or block.get("type") not in _MARKABLE:
        return False
    return block["type"] != "text" or bool(str(block.get("text") or "").strip())


def _mark(entry: Any, path: Where, mark: Mapping[str, Any]) -> Any:
    """Returns a copy with a breakpoint at the end of a path."""
    if isinstance(entry, str):
        return [{"type": "text", "text": entry, KEY: mark}]
    if not path:
        return {**entry, KEY: mark}
    copy = dict(entry) if isinstance(entry, dict) else list(entry)
    copy[path[0]] = _mark(copy[path[0]], path[1:], mark)  # type: ignore[index]
    return copy
