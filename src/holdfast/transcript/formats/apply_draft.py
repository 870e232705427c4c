"""Lays a draft over the decoded entries of its file: untouched entries stay, changed ones go through the format.

A writer calls `apply_draft` for the entries of the new file, changes the links of its format (parents, alternation),
and renders them with `render_file`. A group is a set of entries and turns that belong together: one entry with its
turns, or all the entries of one turn.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from holdfast.transcript.document import Document, Entry
from holdfast.transcript.draft import Draft, Piece
from holdfast.transcript.json_fields import to_json_text
from holdfast.transcript.provider_requests import parse_arguments
from holdfast.transcript.turn import ToolCall, Turn


@dataclass(frozen=True)
class Change:
    """One turn of a group, in order, before and after; `new == raw` if it is unchanged."""

    raw: Turn | None
    """None for a new turn that stands between two turns of the group."""
    new: Turn | None
    """None for a dropped turn."""


@dataclass(frozen=True)
class NewEntry:
    """One entry of the new file."""

    value: Any
    number: int = 0
    """Number of the old entry; 0 if it is new."""


Edit = Callable[[list[Any], tuple[Change, ...]], Sequence[Any]]
"""Maps the entries of one group, with the changes of its turns, to as many values, None for an entry that goes. Not
called for a group that is untouched or dropped whole. Must not change its arguments in place.
"""
New = Callable[[Turn, Any], Any]
"""Maps a turn that is in no entry, and the nearest entry with turns (None in a file without), to an entry."""


def apply_draft(
    entries: Sequence[Entry],
    held: Draft,
    edit: Edit,
    new: New,
    where: Sequence[tuple[int, ...]] | None = None,
) -> list[NewEntry]:
    """Returns the entries of the new file, in order.

    `where` gives for each raw turn the numbers of the entries that hold it; by default `Turn.source`. A turn whose
    entries are not among `entries` is left to the format. An entry without turns stays, unless the nearest entries with
    turns on both sides went.
    """
    places = [(turn.source,) for turn in held.raw.turns] if where is None else where
    values = {entry.number: entry.value for entry in entries}
    groups = _groups([tuple(number for number in numbers if number in values) for numbers in places])
    before = _add_changes(held, groups)
    result = dict(values)
    for group in _distinct(groups):
        olds = [values[number] for number in group.entries]
        result.update(zip(group.entries, _edit_group(olds, tuple(group.changes), edit), strict=True))
    spoken = {number for group in _distinct(groups) for number in group.entries}
    gone = {number for number in spoken if result[number] is None}
    gone |= _find_stranded([entry.number for entry in entries], spoken, gone)
    end = max(spoken, default=0)
    items: list[NewEntry] = []
    for entry in entries:
        items += [NewEntry(new(turn, entry.value)) for turn in before.get(entry.number, ())]
        if entry.number not in gone:
            items.append(NewEntry(result[entry.number], entry.number))
        if entry.number == end:
            items += [NewEntry(new(turn, entry.value)) for turn in before.get(_END, ())]
    return items if end else [*items, *(NewEntry(new(turn, None)) for turn in before.get(_END, ()))]


@dataclass
class _Group:
    turns: list[int] = field(default_factory=list)
    entries: list[int] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)


_END = -1


def _groups(places: Sequence[tuple[int, ...]]) -> list[_Group | None]:
    """Returns for each turn its group; None if it has no entry. Turns that share an entry share a group."""
    groups: list[_Group | None] = [None] * len(places)
    by_entry: dict[int, _Group] = {}
    for at, numbers in enumerate(places):
        if not numbers:
            continue
        met = _distinct([by_entry.get(number) for number in numbers])
        turns = sorted({at, *(turn for group in met for turn in group.turns)})
        whole = _Group(turns, sorted({*numbers, *(number for group in met for number in group.entries)}))
        by_entry.update(dict.fromkeys(whole.entries, whole))
        for turn in turns:
            groups[turn] = whole
    return groups


def _distinct(groups: Iterable[_Group | None]) -> list[_Group]:
    return list({id(group): group for group in groups if group is not None}.values())


def find_raw_turn(piece: Piece, held: Draft) -> int | None:
    """Returns the raw turn that a piece replaces; None if the piece is new, or has another speaker or another call."""
    if piece.at is None:
        return None
    raw = held.raw.turns[piece.at]
    return piece.at if (raw.role, raw.call_id) == (piece.turn.role, piece.turn.call_id) else None


def _add_changes(held: Draft, groups: Sequence[_Group | None]) -> dict[int, list[Turn]]:
    """Adds the changes to every group, and returns the new turns by the entry that they stand before."""
    raw = held.raw.turns
    kept: dict[int, Turn] = {}
    inside: dict[int, list[Turn]] = {}  # by the raw turn that they follow in its group
    before: dict[int, list[Turn]] = {}
    waiting: list[Turn] = []
    last = -1
    for piece in held.pieces:
        at = find_raw_turn(piece, held)
        if at is None or at <= last:
            waiting.append(piece.turn)
            continue
        kept[at] = piece.turn
        group = groups[at]
        if group is not None:
            if waiting and last >= 0 and groups[last] is group:
                inside[last] = waiting
            elif waiting:
                before.setdefault(group.entries[0], []).extend(waiting)
            waiting, last = [], at
    if waiting:
        before[_END] = waiting
    for group in _distinct(groups):
        for at in group.turns:
            group.changes.append(Change(raw[at], kept.get(at)))
            group.changes += [Change(None, turn) for turn in inside.get(at, ())]
    return before


def _edit_group(values: list[Any], changes: tuple[Change, ...], edit: Edit) -> Sequence[Any]:
    if all(change.raw == change.new for change in changes):
        return values
    if all(change.new is None for change in changes):
        return [None] * len(values)
    return edit(values, changes)


def _find_stranded(numbers: Sequence[int], spoken: set[int], gone: set[int]) -> set[int]:
    """Returns the entries without turns, of which the nearest entries with turns on both sides are gone."""
    found: set[int] = set()
    run: list[int] = []
    after_gone = False
    for number in numbers:
        if number not in spoken:
            run.append(number)
            continue
        if after_gone and number in gone:
            found.update(run)
        run, after_gone = [], number in gone
    return found


@dataclass(frozen=True)
class _Several:
    values: tuple[Any, ...]


def pack_entries(values: Sequence[Any], places: int) -> list[Any]:
    """Packs a changed number of entries into the result of an `edit` or a `new`; `unpack_entries` lays them out."""
    return [_Several(tuple(values)), *[None] * (places - 1)]


def unpack_entries(entries: Sequence[Entry], items: Iterable[NewEntry]) -> list[NewEntry]:
    """Returns the entries, packed ones one by one. A value that was an entry is that entry."""
    numbers = {id(entry.value): entry.number for entry in entries}
    flat: list[NewEntry] = []
    for item in items:
        if isinstance(item.value, _Several):
            flat += [NewEntry(value, numbers.get(id(value), 0)) for value in item.value.values]
        else:
            flat.append(item)
    return flat


def match_calls(raw: Sequence[ToolCall], calls: Sequence[ToolCall]) -> tuple[list[ToolCall | None], list[ToolCall]]:
    """Returns for each call of a turn its new form, None if it went; and the calls that are new."""
    left = list(calls)
    kept: list[ToolCall | None] = []
    for old in raw:
        found = next((at for at, call in enumerate(left) if call.id == old.id), None)
        kept.append(None if found is None else left.pop(found))
    return kept, left


def replace_blocks(
    content: Sequence[Any], calls: Sequence[ToolCall | None] | None = None, thinking: bool = True
) -> list[Any]:
    """Returns content parts with other calls (one per `tool_use`, None to drop it) and with or without thinking."""
    made: list[Any] = []
    now = iter(calls or ())
    for part in content:
        type_ = part.get("type") if isinstance(part, dict) else None
        if type_ == "tool_use" and calls is not None:
            call = next(now)
            if call is not None:
                made.append(_put_use(part, call))
        elif thinking or type_ not in ("thinking", "redacted_thinking"):
            made.append(part)
    return made


def _put_use(part: dict[str, Any], call: ToolCall) -> dict[str, Any]:
    same = to_json_text(part.get("input", {})) == call.arguments and part["name"] == call.name
    return part if same else {**part, "name": call.name, "input": input_like(part.get("input"), call)}


def input_like(old: Any, call: ToolCall) -> Any:
    """Returns a call's arguments in the form in which they stood: as a text, or as an object."""
    return call.arguments if isinstance(old, str) else parse_arguments(call)


def render_file(document: Document, items: Sequence[NewEntry], key: str = "messages") -> str:
    """Returns the file's text with these entries: JSON lines, a JSON list, or the object with its list under `key`.

    A line whose value is the very one that was decoded is written as it stood, byte for byte. Indentation, key order
    and the end of the file stay as they were. Entries that the reading skipped are left out.
    """
    items = [item for item in items if item.number not in document.left_out]
    text = document.text
    # JSON's own white space: any other, such as U+2028, would make the last line unreadable.
    tail = text[len(text.rstrip(" \t\r\n")) :]
    if not document.lines:
        values = [item.value for item in items]
        value = {**document.value, key: values} if isinstance(document.value, dict) else values
        return text[: len(text) - len(text.lstrip())] + _dumps(value, text) + tail
    rows = [row.rstrip("\r") for row in text.split("\n")]
    olds = {entry.number: entry.value for entry in document.lines}
    like = rows[document.lines[0].number - 1]
    shown = [
        rows[item.number - 1] if item.number and item.value is olds[item.number] else _dumps(item.value, like)
        for item in items
    ]
    end = "\r\n" if "\r\n" in text else "\n"
    # A log goes on behind its last line: without its end the agent's next record would be glued to ours.
    return end.join(shown) + (tail if "\n" in tail else tail + end)


def _dumps(value: Any, like: str) -> str:
    """Returns JSON in the layout of `like`."""
    indent = re.match(r"\s*[\[{]\r?\n([ \t]+)", like)
    colon = re.search(r'"\s*:([ \t]*)', like)
    tight = colon is not None and not colon.group(1)
    comma = "," if tight or indent else ", "
    colons = ":" if tight else ": "
    return json.dumps(value, ensure_ascii=False, indent=indent and indent.group(1), separators=(comma, colons))
