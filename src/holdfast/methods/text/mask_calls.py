"""Masks long arguments of calls: one line says what was there and how to get it back.

Whole files, patches and scripts that the agent wrote stand in its calls. A call keeps its name and every key; only long
strings go, and of a command the first line stays. Superseded writes go first, the newest write of every file last.
Arguments that are broken JSON stay as they are; a call in the text (a fenced command, `<function=NAME>`) is masked
there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from posixpath import normpath
from typing import ClassVar

from holdfast.errors import BadOption
from holdfast.methods.text.base import Room
from holdfast.methods.text.observations import MARK, expand_hint
from holdfast.transcript.draft import Draft, turn_size
from holdfast.transcript.tools import COMMAND_KEYS, XML_ARGUMENT, list_calls, parse_action
from holdfast.transcript.turn import Role, ToolCall, Turn

_FIRST = 160  # characters of a first line that are shown
_STRING = re.compile(r'"([^"\\]*(?:\\.[^"\\]*)*)"(\s*:)?', re.DOTALL)


@dataclass(frozen=True)
class MaskCalls:
    """The oldest long arguments are masked first, but for what is the newest state of a file."""

    over: int = 128
    """Tokens from which on a value is long."""

    name: ClassVar[str] = "mask_calls"

    def __post_init__(self) -> None:
        if self.over < 0:
            raise BadOption(f"{self.name}: over must be at least 0, got {self.over}")

    def rewrite(self, held: Draft, room: Room) -> Draft:
        size = held.size(room.count)
        if size <= room.budget:
            return held
        for long in sorted(self._long_values(held, room), key=lambda value: value.order):
            old = held.pieces[long.piece].turn
            turn = _mask_turn(old, long, room)
            saved = turn_size(old, room.count) - turn_size(turn, room.count)
            if saved <= 0:
                continue
            held = held.replace_calls(long.piece, turn.calls, self.name)
            held = held if turn.text == old.text else held.replace_text(long.piece, turn.text, self.name)
            size -= saved
            if size <= room.budget:
                break
        return held

    def _long_values(self, held: Draft, room: Room) -> Iterator[_Long]:
        """Yields the long values that may be masked, the oldest first."""
        newest = {normpath(access.path): access.turn for access in room.activity_of(held).writes}
        for at in room.free(held):
            piece = held.pieces[at]
            if piece.at is None or piece.turn.role is not Role.ASSISTANT:
                continue
            for call in list_calls(piece.turn):
                files = parse_action(call).writes
                last = [newest.get(normpath(path)) == piece.at for path in files]
                order = 1 if not files else 2 if any(last) else 0
                for key, text in _argument_strings(piece.turn, call):
                    if room.count(text) > self.over and not text.split("\n")[-1].startswith(MARK):
                        yield _Long(order, at, piece.at, call, key, text, files)


@dataclass(frozen=True)
class _Long:
    """A long value in the arguments of a call."""

    order: int
    """0 where it is of superseded writes alone, 2 where of the newest write of a file, else 1."""
    piece: int
    turn: int
    """The raw turn."""
    call: ToolCall
    key: str
    """The key that it stands under; empty where the arguments are one text."""
    text: str
    files: tuple[str, ...]
    """The files that the call writes."""


def _argument_strings(turn: Turn, call: ToolCall) -> Iterator[tuple[str, str]]:
    """Yields the strings in a call's arguments, each with its innermost key; the whole text if it is no JSON."""
    if not call.arguments.lstrip().startswith(("{", "[")):
        yield from [("", call.arguments)] if turn.calls else []
    elif _is_object(call.arguments):
        yield from ((key, text) for key, text, _ in _json_strings(call.arguments))


def _is_object(arguments: str) -> bool:
    try:
        return isinstance(json.loads(arguments), dict)
    except (ValueError, RecursionError):  # models write broken JSON
        return False


def _json_strings(arguments: str) -> Iterator[tuple[str, str, re.Match[str]]]:
    """Yields every string value of an object's JSON text: its key, its text, and its match."""
    key = ""
    for found in _STRING.finditer(arguments):
        said = json.loads(f'"{found[1]}"', strict=False)
        if found[2]:
            key = said
        else:
            yield key, said, found


def _mask_turn(turn: Turn, long: _Long, room: Room) -> Turn:
    """Returns the turn with one long value masked, also in its text if the call stands there."""
    mask = _mask_text(long, room)
    calls = tuple(
        replace(c, arguments=_put_mask(c.arguments, long, mask)) if c.id == long.call.id else c for c in turn.calls
    )
    if turn.calls:
        return replace(turn, calls=calls, text=turn.text.replace(long.text, mask))
    return replace(turn, text=XML_ARGUMENT.sub(lambda m: m[0].replace(long.text, mask), turn.text))


def _put_mask(arguments: str, long: _Long, mask: str) -> str:
    """Returns the arguments with the mask; every other character stays."""
    if not long.key:
        return mask if arguments == long.text else arguments
    made, end = "", 0
    for key, said, found in _json_strings(arguments):
        if (key, said) == (long.key, long.text):
            made += arguments[end : found.start()] + json.dumps(mask, ensure_ascii=arguments.isascii())
            end = found.end()
    return made + arguments[end:]


def _mask_text(long: _Long, room: Room) -> str:
    """Returns the mask of a value: the first line if it is a command, then a line that describes the rest."""
    lines = long.text.strip().split("\n")
    first = "".join(char if char.isprintable() else " " for char in lines[0])
    first = first if len(first) <= _FIRST else f"{first[:_FIRST]}..."
    command = long.key in COMMAND_KEYS
    facts = [f"{long.text.count(chr(10)) + 1:,} lines, {room.count(long.text):,} tokens"]
    if unseen := [path for path in long.files if path in long.text and path not in first]:
        facts.append(f"writes {', '.join(unseen)}")
    if not command:
        facts.append(f"begins `{first}`")
    told = f"{MARK}{'; '.join(facts)}; back by: {expand_hint(long.turn)}]"
    return f"{first}\n{told}" if command else told
