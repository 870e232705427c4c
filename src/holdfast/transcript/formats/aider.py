"""Aider's chat history in markdown: `#### ` lines are the user, `> ` lines aider itself, the rest the model.

The file does not say which lines the model saw, nor what `/clear` and `/undo` took from it: all turns are
kept. Aider's own lines become tool turns that answer no call.
"""

from __future__ import annotations

import re
from itertools import groupby
from typing import NamedTuple

from holdfast.transcript.document import Document
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
    """Every line with its speaker. A blank line belongs to the model only between two lines of its own."""
    pieces: list[_Piece] = []
    fenced = False
    speaker: Role | None = None
    for number, line in enumerate(text.split("\n"), 1):
        fenced ^= line.startswith("```")
        role, said = _spoken(line, fenced)
        if role is None and not START.match(line):
            role = speaker if speaker is Role.ASSISTANT else None
        pieces.append(_Piece(number, role, said))
        speaker = role
    return pieces


def _spoken(line: str, fenced: bool) -> tuple[Role | None, str]:
    """Who says this line, and what. Blank lines and session heads have no speaker of their own."""
    line = line.rstrip("\r")
    for mark, role in _MARKS.items():
        # Aider ends its marked lines with two spaces; inside a fence only that tells them from the code.
        if line.startswith(mark) and (not fenced or line.endswith("  ")):
            return role, line.removeprefix(mark).rstrip()
    if not line.strip() or START.match(line):
        return None, ""
    return Role.ASSISTANT, line
