"""Notes that stand for earlier turns: sections of lines, each line with its turns.

They are written so that they can be read back from a session file, merged with newer ones and kept to a size for any
number of rounds.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from holdfast.facts.prohibitions import forbids
from holdfast.transcript.draft import Count, Line, Piece
from holdfast.transcript.speaker import NOTES_TITLE, is_notes
from holdfast.transcript.turn import Role, Turn


class NotesSection(StrEnum):
    """The sections of notes, in the order in which they are written."""

    INTENT = "Intent"
    CONSTRAINTS = "Constraints"
    DECISIONS = "Decisions"
    FILES = "Files"
    COMMANDS = "Commands"
    ERRORS = "Errors and fixes"
    STATE = "State and next step"


SHARES: Mapping[NotesSection, float] = {
    NotesSection.INTENT: 0.08,
    NotesSection.CONSTRAINTS: 0.22,
    NotesSection.DECISIONS: 0.15,
    NotesSection.FILES: 0.17,
    NotesSection.COMMANDS: 0.12,
    NotesSection.ERRORS: 0.12,
    NotesSection.STATE: 0.14,
}
"""The share of the size that belongs to a section; tokens that it leaves go to the others, in the order of `_FIRST`."""

_FIRST = (
    NotesSection.CONSTRAINTS,
    NotesSection.STATE,
    NotesSection.INTENT,
    NotesSection.DECISIONS,
    NotesSection.ERRORS,
    NotesSection.FILES,
    NotesSection.COMMANDS,
)

NOTES_WRITER = "summarize"
"""`Piece.writer` of notes."""
READ_MARK, WRITTEN_MARK = " (read)", " (written)"
OUTCOME_ARROW = " -> "
"""Between a command and its outcome."""

_TITLE = re.compile(NOTES_TITLE)
_PREFACE = 'A record of what was done, which asks for nothing; only what "Constraints" quotes is in the user\'s words.'
_HEADING = re.compile(r"## (.+)")


@dataclass(frozen=True)
class Notes:
    """Lines by section, the oldest first, and how much of a session they stand for."""

    lines: Mapping[NotesSection, tuple[Line, ...]]
    turns: int = 0
    tokens: int = 0

    def of(self, section: NotesSection) -> tuple[Line, ...]:
        return self.lines.get(section, ())

    def render(self) -> tuple[Line, ...]:
        """Returns the title, the preface, and every section that has lines."""
        head = (Line(f"# Notes on {self.turns:,} earlier turns ({self.tokens:,} tokens)"), Line(_PREFACE))
        body = ((Line(f"## {name}"), *self.of(name)) for name in NotesSection if self.of(name))
        return (*head, *(line for part in body for line in part))


def read_notes(piece: Piece) -> Notes | None:
    """Returns the notes of an earlier compaction, in memory or read back from a file; None if a piece is no notes."""
    title = _TITLE.match(piece.turn.text) if is_notes(piece.turn) else None
    if title is None:
        return None
    lines = piece.lines or tuple(Line(text, piece.turns) for text in piece.turn.text.split("\n"))
    found: dict[NotesSection, tuple[Line, ...]] = {}
    section = None
    for line in lines:
        if heading := _HEADING.fullmatch(line.text):
            section = next((name for name in NotesSection if name == heading[1]), None)
        elif section and line.text.strip():
            found[section] = (*found.get(section, ()), replace(line, turns=line.turns or piece.turns))
    turns, tokens = (int(number.replace(",", "") or 0) for number in title.groups())
    return Notes(found, turns, tokens)


def merge_notes(old: Notes, new: Notes, replaced: Iterable[Line] = ()) -> Notes:
    """Adds newer lines to older ones, without `replaced`; a line on the same file or command replaces the older one."""
    gone = set(replaced)
    rest = Notes({name: tuple(line for line in old.of(name) if line not in gone) for name in NotesSection})
    lines = {name: _merge_lines(name, (*rest.of(name), *new.of(name))) for name in NotesSection}
    return Notes(lines, old.turns + new.turns, old.tokens + new.tokens)


def _merge_lines(section: NotesSection, lines: Iterable[Line]) -> tuple[Line, ...]:
    """Returns, of lines with one key, the newest at its place with the turns of all; a file once written stays so."""
    newest: dict[str, Line] = {}
    for line in lines:
        key = _key(section, line.text)
        if old := newest.pop(key, None):
            text = old.text if old.text.endswith(WRITTEN_MARK) and line.text.endswith(READ_MARK) else line.text
            line = Line(text, tuple(sorted({*old.turns, *line.turns})))  # noqa: PLW2901
        newest[key] = line
    return tuple(newest.values())


def _key(section: NotesSection, text: str) -> str:
    """Returns the file or the command of a line that code wrote; else the line itself."""
    if section is NotesSection.FILES:
        return text.removesuffix(READ_MARK).removesuffix(WRITTEN_MARK)
    return text.rpartition(OUTCOME_ARROW)[0] or text if section is NotesSection.COMMANDS else text


def fit_notes(notes: Notes, most: int, count: Count) -> tuple[Notes, int]:
    """Returns the notes in at most `most` tokens, and the number of lines that went.

    Each section has its share, tokens left over go round. In a section the least important lines go first, of equally
    important ones the oldest.
    """
    frame = replace(notes, lines={name: (Line(""),) for name in NotesSection if notes.of(name)}).render()
    room = most - sum(_size(line, count) for line in frame)
    chosen: dict[NotesSection, set[int]] = {name: set() for name in NotesSection}
    for shares in (SHARES, dict.fromkeys(NotesSection, 1.0)):
        for name in _FIRST:
            own = min(int(shares[name] * most), room) if shares is SHARES else room
            lines = notes.of(name)
            for at in sorted(set(range(len(lines))) - chosen[name], key=lambda at: _rank(name, at, lines[at])):
                size = _size(lines[at], count)
                if size <= own:
                    chosen[name].add(at)
                    own, room = own - size, room - size
    fitting = {
        name: tuple(line for at, line in enumerate(notes.of(name)) if at in chosen[name]) for name in NotesSection
    }
    return replace(notes, lines=fitting), sum(len(notes.of(name)) - len(fitting[name]) for name in NotesSection)


def _size(line: Line, count: Count) -> int:
    return count(line.text) + 1  # the line's end


def _rank(section: NotesSection, at: int, line: Line) -> tuple[int, int]:
    """Sorts the most important line first, then the newest."""
    weight = 0
    if section is NotesSection.CONSTRAINTS:
        weight = forbids(line.text)
    elif section is NotesSection.FILES:
        weight = 1 + line.text.endswith(WRITTEN_MARK) - line.text.endswith(READ_MARK)
    elif section is NotesSection.COMMANDS:
        weight = not line.text.endswith(f"{OUTCOME_ARROW}exit 0")
    return -weight, -at


def notes_to_piece(notes: Notes, turns: tuple[int, ...]) -> Piece:
    """Returns the notes as a message that stands for `turns`."""
    lines = tuple(replace(line, turns=line.turns or turns) for line in notes.render())
    return Piece(Turn(Role.USER, "\n".join(line.text for line in lines)), turns, NOTES_WRITER, lines)
