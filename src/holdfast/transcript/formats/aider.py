"""Aider's chat history in markdown: `#### ` lines are the user, `> ` lines aider itself, the rest the model.

The file does not say which lines the model saw, nor what `/clear` and `/undo` took from it: all turns are
kept. Aider's own lines become tool turns that answer no call.
"""

from __future__ import annotations

import re
from itertools import groupby
from typing import Any, NamedTuple

from holdfast.transcript.document import Document, Entry
from holdfast.transcript.draft import Draft
from holdfast.transcript.formats.apply_draft import Change, apply_draft
from holdfast.transcript.turn import Role, Transcript, Turn

START = re.compile(r"^# aider chat started at (.*)$", re.MULTILINE)
_MARKS = {"#### ": Role.USER, "> ": Role.TOOL}


class _Piece(NamedTuple):
    number: int
    role: Role | None
    """None: a blank line, or the head of a session."""
    text: str


def sniff(document: Document) -> bool:
    return document.value is None and not document.lines and START.search(document.text) is not None


def read(document: Document) -> Transcript:
    turns: list[Turn] = []
    for role, group in groupby(_pieces(document.text), key=lambda piece: piece.role):
        pieces = list(group)
        text = "\n".join(piece.text for piece in pieces).strip()
        if role is not None and text:
            turns.append(Turn(role, text, source=pieces[0].number))
    starts = [start.strip() for start in START.findall(document.text)]
    return Transcript(tuple(turns), "aider", {"sessions": starts})


def _pieces(text: str) -> list[_Piece]:
    """Returns every line with its speaker. A blank line belongs to the model only between two lines of its own."""
    pieces: list[_Piece] = []
    fenced = False
    speaker: Role | None = None
    for number, line in enumerate(text.split("\n"), 1):
        fenced ^= line.startswith("```")
        role, said = _parse_line(line, fenced)
        # A fence that the model left open ends with its turn, so that no turn hangs on the text of another.
        fenced &= role in (None, Role.ASSISTANT) and not START.match(line)
        if role is None and not START.match(line):
            role = speaker if speaker is Role.ASSISTANT else None
        pieces.append(_Piece(number, role, said))
        speaker = role
    return pieces


def _parse_line(line: str, fenced: bool) -> tuple[Role | None, str]:
    """Returns the speaker of a line and its words. Blank lines and session heads have no speaker of their own."""
    line = line.rstrip("\r")
    for mark, role in _MARKS.items():
        # Aider ends its marked lines with two spaces; inside a fence only that tells them from the code.
        if line.startswith(mark) and (not fenced or line.endswith("  ")):
            return role, line.removeprefix(mark).rstrip()
    if not line.strip() or START.match(line):
        return None, ""
    return Role.ASSISTANT, line


def write(document: Document, held: Draft) -> str:
    """Writes the lines of turns that stay as they stand, and heads of sessions and blank lines with them."""
    entries = tuple(Entry(number, row) for number, row in enumerate(document.text.split("\n"), 1))
    rows: list[str] = []
    last = 0
    for item in apply_draft(entries, held, _edit, _new, _lines_of_turns(document.text)):
        # Neighbours that were none before would be read as one turn.
        if rows and item.number != last + 1 and rows[-1].strip() and item.value.strip():
            rows.append("")
        rows.append(item.value)
        last = item.number
    return "\n".join(rows)


def _lines_of_turns(text: str) -> list[tuple[int, ...]]:
    """Returns the line numbers of every turn."""
    groups = [list(group) for _, group in groupby(_pieces(text), key=lambda piece: piece.role)]
    spoken = [group for group in groups if group[0].role and any(piece.text.strip() for piece in group)]
    return [tuple(piece.number for piece in group) for group in spoken]


def _edit(values: list[Any], changes: tuple[Change, ...]) -> list[Any]:
    turn = changes[0].new
    if turn is None:
        raise AssertionError("the lines of a turn are dropped whole")
    ends = [""] if not values[-1].strip() else []
    return ["\n".join([_render_turn(turn), *ends]), *[None] * (len(values) - 1)]


def _new(turn: Turn, _near: Any) -> str:
    return _render_turn(turn)


def _render_turn(turn: Turn) -> str:
    """Returns the lines of a turn. A line that would be read as another speaker's is moved in by a space, a fence is
    closed.
    """
    lines = turn.text.split("\n")
    mark = next((mark for mark, role in _MARKS.items() if role is turn.role), "")
    if mark:
        return "\n".join(f"{mark}{line}  " for line in lines)
    fences = sum(line.startswith("```") for line in lines)
    told = [f" {line}" if line.startswith(tuple(_MARKS)) or START.match(line) else line for line in lines]
    return "\n".join([*told, *["```"] * (fences % 2)])
