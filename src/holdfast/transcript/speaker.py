"""The real speaker of a turn: a tool's result, or the text of a compaction, may stand in a user's message.

If roles must alternate, a format puts the standing notes and the facts section into the user message beside them.
Read back, they would pass for the user's words.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from holdfast.transcript.tools import answers_text_call
from holdfast.transcript.turn import Role, Turn

NOTES_TITLE = r"# Notes on ([\d,]{1,15}) earlier turns \(([\d,]{1,15}) tokens\)\n"
"""The pattern of the first line of notes: the number of turns and tokens that they stand for."""
SECTION_TITLE = "[facts of earlier turns, word for word; turns count from 1]"
"""The first line of a facts section."""
_NOTES = re.compile(NOTES_TITLE)
_ITEMS = r"(?:\n(?:- |## )[^\n]*)*"
_STANDING = re.compile(rf"^(?:{NOTES_TITLE}[^\n]*{_ITEMS}|{re.escape(SECTION_TITLE)}{_ITEMS})$", re.MULTILINE)


@dataclass(frozen=True)
class Voice:
    """The words of one speaker in a turn's text."""

    speaker: Role
    start: int
    """The offset of these words in the turn's text."""
    text: str
    """The words; of a user beside others, with blanks in the others' place, so that every character keeps its
    offset.
    """


def is_notes(turn: Turn) -> bool:
    """Returns True for the notes of an earlier compaction. Only a user turn can hold them: text that a tool printed
    never is.
    """
    return turn.role is Role.USER and _NOTES.match(turn.text) is not None


def is_section(turn: Turn) -> bool:
    """Returns True for a facts section, of this run or read back from a file."""
    return turn.role is Role.USER and turn.text.startswith(SECTION_TITLE)


def split_voices(turn: Turn) -> tuple[Voice, ...]:
    """Returns all who speak in a turn's text, at least one, the user first. A result is the tool's, notes are the
    model's.
    """
    if turn.role is not Role.USER or answers_text_call(turn):
        return (Voice(Role.TOOL if turn.role is Role.USER else turn.role, 0, turn.text),)
    standing = tuple(
        Voice(Role.TOOL if match[0].startswith(SECTION_TITLE) else Role.ASSISTANT, match.start(), match[0])
        for match in _STANDING.finditer(turn.text)
    )
    said = _STANDING.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), turn.text) if standing else turn.text
    return (Voice(Role.USER, 0, said), *standing) if said.strip() or not standing else standing


def find_speaker(turn: Turn) -> Role:
    """Returns the speaker of a turn; the user, if others speak beside him."""
    return split_voices(turn)[0].speaker


def extract_own_words(turn: Turn) -> str:
    """Returns the user's own words in a turn, each character at its offset; empty if the turn is not the user's."""
    first = split_voices(turn)[0]
    return first.text if first.speaker is Role.USER else ""
