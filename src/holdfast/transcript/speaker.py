"""The real speakers of a turn: a tool's result, the text of a compaction, or what a harness injects (`injections`) may
stand in a user's message.

If roles must alternate, a format puts the standing notes and the facts section into the user message beside them.
Read back, they would pass for the user's words.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from holdfast.transcript.injections import SYNTHETIC_FIELD, Injection, Owner, find_injections, owner_by_fields
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
    owner: Owner | None = None
    """Of injected text, its owner; None for the speaker's own words and for text of an earlier compaction."""
    source: str = ""
    """The file of project rules."""


def is_notes(turn: Turn) -> bool:
    """Returns True for the notes of an earlier compaction. Only a user turn can hold them: text that a tool printed
    never is.
    """
    return turn.role is Role.USER and _NOTES.match(turn.text) is not None


def is_section(turn: Turn) -> bool:
    """Returns True for a facts section, of this run or read back from a file."""
    return turn.role is Role.USER and turn.text.startswith(SECTION_TITLE)


def split_voices(turn: Turn) -> tuple[Voice, ...]:
    """Returns all who speak in a turn's text, at least one, the user first. A result is the tool's, notes and summaries
    are the model's, injected text is data, and rules of the project are the system's.
    """
    if turn.role is not Role.USER or answers_text_call(turn):
        return (Voice(Role.TOOL if turn.role is Role.USER else turn.role, 0, turn.text),)
    synthetic = tuple((start, stop) for start, stop in turn.extra.get(SYNTHETIC_FIELD) or ())
    return _split_user_text(turn.text, owner_by_fields(turn.extra), synthetic)


_SPEAKERS = {Owner.CONTEXT: Role.TOOL, Owner.RULES: Role.SYSTEM, Owner.SUMMARY: Role.ASSISTANT}


@lru_cache(maxsize=1 << 12)
def _split_user_text(text: str, owner: Owner, synthetic: tuple[tuple[int, int], ...]) -> tuple[Voice, ...]:
    """Returns the voices in a user's message. Unmarked text is the `owner`'s, the spans `synthetic` are context."""
    said, others = text, list[Voice]()
    for match in _STANDING.finditer(text):
        speaker = Role.TOOL if match[0].startswith(SECTION_TITLE) else Role.ASSISTANT
        others.append(Voice(speaker, match.start(), match[0]))
        said = _blank(said, *match.span())
    marks = (*find_injections(said), *(Injection(*span, Owner.CONTEXT) for span in synthetic))
    for mark in marks:
        words = said[mark.start : mark.stop]
        if words.strip():
            others.append(Voice(_SPEAKERS[mark.owner], mark.start, words, mark.owner, mark.source))
            said = _blank(said, mark.start, mark.stop)
    if owner is not Owner.USER:
        others += [Voice(_SPEAKERS[owner], *part, owner) for part in _stretches(said)]
        said = ""
    others.sort(key=lambda voice: voice.start)
    return (Voice(Role.USER, 0, said), *others) if said.strip() or not others else tuple(others)


def _blank(text: str, start: int, stop: int) -> str:
    return text[:start] + re.sub(r"[^\n]", " ", text[start:stop]) + text[stop:]


def _stretches(text: str) -> Iterator[tuple[int, str]]:
    """Yields the stretches between blank parts, each with its offset."""
    for match in re.finditer(r"\S(?:.*\S)?(?:\n[^\S\n]*\S.*)*", text):
        yield match.start(), match[0]


def is_made(voice: Voice) -> bool:
    """Returns True for text of an earlier compaction: notes or a facts section."""
    return voice.speaker is not Role.USER and voice.owner is None and _STANDING.match(voice.text) is not None


def find_speaker(turn: Turn) -> Role:
    """Returns the speaker of a turn; the user, if others speak beside him."""
    return split_voices(turn)[0].speaker


def extract_own_words(turn: Turn) -> str:
    """Returns the user's own words in a turn, each character at its offset; empty if the turn is not the user's."""
    first = split_voices(turn)[0]
    return first.text if first.speaker is Role.USER else ""
