"""Which parts of a session tell of an older state: files that were read or written again, commands that ran again,
values that were set again. In doubt a part still counts.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from holdfast.facts.extract import TextFact
from holdfast.facts.occurrences import find_occurrences
from holdfast.transcript.activity import FileAccess, find_activity
from holdfast.transcript.tools import answers_text_call
from holdfast.transcript.turn import Role, Turn

Part = tuple[int, int]
"""A turn, and 0 for its text or n for the arguments of its n-th call."""

_WHOLE = ("content", "file_text", "contents", "text")
_OLD, _NEW = ("old_str", "old_string", "search"), ("new_str", "new_string", "replace")
_VALUE = r"""(?P<key>[A-Za-z_][\w.-]{1,60})["'`]?[ ]{0,8}(?P<sign>%s)[ ]{0,8}["'`]?(?P<value>[^\s"'`,;]{1,120})["'`]?"""
_SET = re.compile(r"^[ \t]*(?:export |set |-e |- )?[\"'`]?" + _VALUE % "=|:=|:" + r"[ \t]*[,;]?[ \t]*$", re.MULTILINE)
_SAID = re.compile(
    r"^[ \t]*(?:(?:please|set|use|make|change|now|so|the|ok|okay)[, ]+){0,4}[\"'`]?"
    + _VALUE % "=|:=|:|is now|is|to"
    + r"(?:[ ]now|[ ]instead|[ ]please)?[.!]?[ \t]*$",
    re.MULTILINE | re.IGNORECASE,
)


@dataclass(frozen=True)
class Edit:
    """Text of a part that an edit took out of the file."""

    gone: str
    left: str
    by: int


@dataclass(frozen=True)
class Supersession:
    """What no longer holds."""

    parts: dict[Part, int] = field(default_factory=dict)
    """Whole parts, each with the turn that made it history."""
    edits: dict[Part, list[tuple[Edit, str]]] = field(default_factory=dict)
    """Per part: what was edited out since, and the part's text."""
    values: dict[Part, list[tuple[int, int, int]]] = field(default_factory=dict)
    """Per part: spans of values that were set again, and the turn that did."""
    written: frozenset[str] = frozenset()
    """Paths that were written."""

    def by(self, turn: int, part: int, atom: TextFact) -> int | None:
        """The turn that superseded an atom of a part that as a whole still holds."""
        start, stop = atom.chars
        for first, last, turned in self.values.get((turn, part), ()):
            if first <= start and stop <= last:
                return turned
        for edit, text in self.edits.get((turn, part), ()):
            gone = len(find_occurrences(atom.text, atom.kind, edit.gone))
            everywhere = gone == len(find_occurrences(atom.text, atom.kind, text))
            if gone and everywhere and not find_occurrences(atom.text, atom.kind, edit.left):
                return edit.by
        return None


def find_supersession(turns: Sequence[Turn]) -> Supersession:
    """What later turns made history."""
    seen = find_activity(turns)
    found = Supersession(written=frozenset(posixpath.normpath(access.path) for access in seen.writes))
    ran: dict[str, int] = {}
    for command in seen.commands:
        if command.result_turn is not None:
            _replace(found, ran.get(command.text), command.result_turn)
            ran[command.text] = command.result_turn
    reads = [(access, False) for access in seen.reads if access.result_turn is not None]
    writes = [(access, True) for access in seen.writes]
    held: dict[str, list[tuple[Part, str]]] = {}
    for access, wrote in sorted((*reads, *writes), key=lambda item: (item[0].turn, item[1])):
        _file(found, turns, held.setdefault(posixpath.normpath(access.path), []), access, wrote)
    _values(found, turns)
    return found


def _replace(found: Supersession, old: int | None, new: int) -> None:
    if old is not None and old < new:
        found.parts[old, 0] = new


def _file(
    found: Supersession, turns: Sequence[Turn], held: list[tuple[Part, str]], access: FileAccess, wrote: bool
) -> None:
    """One access of a file; `held` are the parts that show it, each with the range that it shows."""
    if not wrote:
        result = access.result_turn
        if result is None or not access.alone:
            return
        old = [(part, shown) for part, shown in held if not access.part or shown == access.part]
        _all(found, old, result)
        held[:] = [item for item in held if item not in old] + [((result, 0), access.part)]
        return
    for number, fields in _arguments(turns[access.turn], access.path):
        if any(isinstance(fields.get(key), str) for key in _WHOLE) and not any(key in fields for key in _NEW):
            _all(found, held, access.turn)
            held[:] = []
        for edit in _edits(fields, access.turn):
            for part, _ in held:
                found.edits.setdefault(part, []).append((edit, _text(turns, part)))
            found.edits.setdefault((access.turn, number), []).append((edit, edit.gone))
        held.append(((access.turn, number), "written"))


def _all(found: Supersession, held: Sequence[tuple[Part, str]], by: int) -> None:
    for part, _ in held:
        if part[0] < by:
            found.parts.setdefault(part, by)


def _text(turns: Sequence[Turn], part: Part) -> str:
    turn = turns[part[0]]
    return turn.calls[part[1] - 1].arguments if part[1] else turn.text


def _arguments(turn: Turn, path: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """The calls of a turn that name a file, as (part, arguments)."""
    for number, call in enumerate(turn.calls, 1):
        try:
            fields = json.loads(call.arguments)
        except (ValueError, RecursionError):  # models write broken JSON; then nothing is known
            continue
        if isinstance(fields, dict) and path in fields.values():
            yield number, fields


def _edits(fields: Mapping[str, Any], by: int) -> Iterator[Edit]:
    """What a call replaces in a file, by what."""
    nested = fields.get("edits")
    for item in (fields, *(nested if isinstance(nested, list) else ())):
        if not isinstance(item, dict):
            continue
        gone = next((item[key] for key in _OLD if isinstance(item.get(key), str)), "")
        left = next((item[key] for key in _NEW if isinstance(item.get(key), str)), None)
        if gone and left is not None:
            yield Edit(gone, left, by)


def _values(found: Supersession, turns: Sequence[Turn]) -> None:
    """`port = 8080`, and later `port = 9090` from the same side: the user, or tool results that no call asked for.

    What two calls print may be of two places, so there only the same file or the same command counts.
    """
    latest: dict[tuple[Role, str], tuple[int, int, int, str]] = {}
    for at, turn in enumerate(turns):
        unasked = turn.role is Role.TOOL and not turn.call_id
        if not unasked and (turn.role is not Role.USER or answers_text_call(turn)):
            continue
        matches = list((_SET if unasked else _SAID).finditer(turn.text))
        often = Counter(match["key"].lower() for match in matches)
        for match in matches:
            key, value = match["key"].lower(), match["value"].rstrip(".!")
            if often[key] > 1:
                continue
            old = latest.get((turn.role, key))
            if old and old[3] != value:
                found.values.setdefault((old[0], 0), []).append((old[1], old[2], at))
            latest[turn.role, key] = (at, *match.span("value"), value)
