"""Who really speaks: a tool's result, or what a compaction wrote, may stand in a user's message, alone or joined to it.

Where roles must alternate, a format puts the standing notes and the facts section into the user message beside them.
Read back, they would pass for the user's words.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from holdfast.transcript.tools import answers_text_call
from holdfast.transcript.turn import Role, Turn

NOTES_TITLE = r"# Notes on ([\d,]{1,15}) earlier turns \(([\d,]{1,15}) tokens\)\n"
"""How notes begin: how many turns and tokens they stand for."""
SECTION_TITLE = "[facts of earlier turns, word for word; turns count from 1]"
"""How a facts section begins."""
_NOTES = re.compile(NOTES_TITLE)
_ITEMS = r"(?:\n(?:- |## )[^\n]*)*"
_STANDING = re.compile(rf"^(?:{NOTES_TITLE}[^\n]*{_ITEMS}|{re.escape(SECTION_TITLE)}{_ITEMS})$", re.MULTILINE)


@dataclass(frozen=True)
class Voice:
    """What one speaker says in a turn's text."""

    speaker: Role
    start: int
    """Where it begins in that text."""
    text: str
    """Of the user beside others: blanks in their place, so that every character keeps its own."""


def is_notes(turn: Turn) -> bool:
    """Whether a turn holds the notes of an earlier compaction. Only a user turn can: what a tool printed never does."""
    return turn.role is Role.USER and _NOTES.match(turn.text) is not None


def is_section(turn: Turn) -> bool:
    """Whether a message is a facts section, of this run or read back from a file."""
    return turn.role is Role.USER and turn.text.startswith(SECTION_TITLE)


def split_voices(turn: Turn) -> tuple[Voice, ...]:
    """All who speak in a turn's text, at least one, the user first: a result is the tool's, notes are the model's."""
    if turn.role is not Role.USER or answers_text_call(turn):
        return (Voice(Role.TOOL if turn.role is Role.USER else turn.role, 0, turn.text),)
    standing = tuple(
        Voice(Role.TOOL if match[0].startswith(SECTION_TITLE) else Role.ASSISTANT, match.start(), match[0])
        for match in _STANDING.finditer(turn.text)
    )
    said = _STANDING.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), turn.text) if standing else turn.text
    return (Voice(Role.USER, 0, said), *standing) if said.strip() or not standing else standing


def find_speaker(turn: Turn) -> Role:
    """Who speaks in a turn; the user, where others do so beside him."""
    return split_voices(turn)[0].speaker


def extract_own_words(turn: Turn) -> str:
    """What the user himself says in a turn, each character at its place; empty where it is not the user's."""
    first = split_voices(turn)[0]
    return first.text if first.speaker is Role.USER else ""
