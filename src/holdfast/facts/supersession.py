"""Finds the parts of a session that show an older state: a file that was read or written again, a command that ran
again, a value that was set again. In doubt a part still counts.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from holdfast.facts.fact import TextFact
from holdfast.facts.occurrences import find_occurrences
from holdfast.transcript.activity import Activity, FileAccess
from holdfast.transcript.tools import answers_text_call
from holdfast.transcript.turn import Role, Turn

Part = tuple[int, int]
"""A turn, and its part: 0 for the text, n for the arguments of the n-th call."""

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
    """An edit of a file that took text out of a part of the session."""

    removed: str
    added: str
    turn: int


@dataclass(frozen=True)
class Supersession:
    """The parts, texts and values of a session that no longer hold."""

    parts: dict[Part, int] = field(default_factory=dict)
    """Whole parts, each with the turn that made it history."""
    edits: dict[Part, list[tuple[Edit, str]]] = field(default_factory=dict)
    """Per part: the later edits of its file, and the part's text."""
    values: dict[Part, list[tuple[int, int, int]]] = field(default_factory=dict)
    """Per part: start and end of a value that was set again, and the turn that did."""
    written: frozenset[str] = frozenset()
    """Paths that were written."""

    def find(self, turn: int, part: int, fact: TextFact) -> int | None:
        """Returns the turn that superseded a fact of this part; None while it holds."""
        whole = self.parts.get((turn, part))
        return whole if whole is not None else self._find_in_part(turn, part, fact)

    def _find_in_part(self, turn: int, part: int, fact: TextFact) -> int | None:
        start, stop = fact.chars
        for first, last, setter in self.values.get((turn, part), ()):
            if first <= start and stop <= last:
                return setter
        for edit, text in self.edits.get((turn, part), ()):
            removed = len(find_occurrences(fact.text, fact.kind, edit.removed))
            everywhere = removed == len(find_occurrences(fact.text, fact.kind, text))
            if removed and everywhere and not find_occurrences(fact.text, fact.kind, edit.added):
                return edit.turn
        return None


def find_supersession(turns: Sequence[Turn], activity: Activity) -> Supersession:
    """Returns the parts that later turns made history. `activity` is that of `turns`."""
    found = Supersession(written=frozenset(posixpath.normpath(access.path) for access in activity.writes))
    last_run: dict[str, int] = {}
    for command in activity.commands:
        if command.result_turn is not None:
            _supersede_result(found, last_run.get(command.text), command.result_turn)
            last_run[command.text] = command.result_turn
    reads = [(access, False) for access in activity.reads if access.result_turn is not None]
    writes = [(access, True) for access in activity.writes]
    shown: dict[str, list[tuple[Part, str]]] = {}
    for access, is_write in sorted((*reads, *writes), key=lambda item: (item[0].turn, item[1])):
        parts = shown.setdefault(posixpath.normpath(access.path), [])
        if is_write:
            _add_write(found, turns, parts, access)
        else:
            _add_read(found, parts, access)
    _add_values(found, turns)
    return found


def _supersede_result(found: Supersession, old: int | None, new: int) -> None:
    if old is not None and old < new:
        found.parts[old, 0] = new


def _add_read(found: Supersession, shown: list[tuple[Part, str]], access: FileAccess) -> None:
    """Adds a read of a file. `shown` are the parts that show the file, each with the range that it shows."""
    result = access.result_turn
    if result is None or not access.alone:
        return
    old = [(part, range_) for part, range_ in shown if not access.part or range_ == access.part]
    _supersede_parts(found, old, result)
    shown[:] = [item for item in shown if item not in old] + [((result, 0), access.part)]


def _add_write(found: Supersession, turns: Sequence[Turn], shown: list[tuple[Part, str]], access: FileAccess) -> None:
    """Adds a write of a file. `shown` are the parts that show the file, each with the range that it shows."""
    for number, fields in _calls_on(turns[access.turn], access.path):
        if any(isinstance(fields.get(key), str) for key in _WHOLE) and not any(key in fields for key in _NEW):
            _supersede_parts(found, shown, access.turn)
            shown[:] = []
        for edit in _find_edits(fields, access.turn):
            for part, _ in shown:
                found.edits.setdefault(part, []).append((edit, _text_of_part(turns, part)))
            found.edits.setdefault((access.turn, number), []).append((edit, edit.removed))
        shown.append(((access.turn, number), "written"))


def _supersede_parts(found: Supersession, shown: Sequence[tuple[Part, str]], turn: int) -> None:
    for part, _ in shown:
        if part[0] < turn:
            found.parts.setdefault(part, turn)


def _text_of_part(turns: Sequence[Turn], part: Part) -> str:
    turn = turns[part[0]]
    return turn.calls[part[1] - 1].arguments if part[1] else turn.text


def _calls_on(turn: Turn, path: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yields the calls of a turn that name the file `path`, as (part, arguments)."""
    for number, call in enumerate(turn.calls, 1):
        try:
            fields = json.loads(call.arguments)
        except (ValueError, RecursionError):  # models write broken JSON; then nothing is known
            continue
        if isinstance(fields, dict) and path in fields.values():
            yield number, fields


def _find_edits(fields: Mapping[str, Any], turn: int) -> Iterator[Edit]:
    """Yields the replacements that the arguments of a call ask for."""
    nested = fields.get("edits")
    for item in (fields, *(nested if isinstance(nested, list) else ())):
        if not isinstance(item, dict):
            continue
        removed = next((item[key] for key in _OLD if isinstance(item.get(key), str)), "")
        added = next((item[key] for key in _NEW if isinstance(item.get(key), str)), None)
        if removed and added is not None:
            yield Edit(removed, added, turn)


def _add_values(found: Supersession, turns: Sequence[Turn]) -> None:
    """Adds values that were set again, such as `port = 8080` and later `port = 9090`, by the same side: the user, or
    tool results that no call asked for.

    Two calls may print values of two places, so of these only the same file or the same command counts.
    """
    latest: dict[tuple[Role, str], tuple[int, int, int, str]] = {}
    for at, turn in enumerate(turns):
        unasked = turn.role is Role.TOOL and not turn.call_id
        if not unasked and (turn.role is not Role.USER or answers_text_call(turn)):
            continue
        matches = list((_SET if unasked else _SAID).finditer(turn.text))
        counts = Counter(match["key"].lower() for match in matches)
        for match in matches:
            key, value = match["key"].lower(), match["value"].rstrip(".!")
            if counts[key] > 1:
                continue
            old = latest.get((turn.role, key))
            if old and old[3] != value:
                found.values.setdefault((old[0], 0), []).append((old[1], old[2], at))
            latest[turn.role, key] = (at, *match.span("value"), value)
