"""The user's own words in a turn, those included that an earlier compaction quoted there."""

from __future__ import annotations

import re
from collections.abc import Iterator

from holdfast.facts.extract import TextFact
from holdfast.facts.notes import NotesSection
from holdfast.facts.passages import find_rules
from holdfast.facts.section import read_rules
from holdfast.transcript.speaker import extract_own_words, split_voices
from holdfast.transcript.turn import Role, Turn

_CONSTRAINTS = re.compile(rf"^## {NotesSection.CONSTRAINTS}\n(?P<quoted>.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)


def read_carried_rules(turn: Turn) -> Iterator[TextFact]:
    """The user's rules that an earlier compaction wrote down in this turn."""
    for voice in split_voices(turn) if turn.role is Role.USER else ():
        if voice.speaker is not Role.USER:
            found = read_rules(voice.text) if voice.speaker is Role.TOOL else _quoted(voice.text)
            yield from (atom.shift(voice.start) for atom in found)


def extract_user_words(turn: Turn) -> str:
    """What the user says in a turn; empty where it is not the user's."""
    return "\n".join(filter(None, (extract_own_words(turn), *(atom.text for atom in read_carried_rules(turn)))))


def _quoted(notes: str) -> Iterator[TextFact]:
    for part in _CONSTRAINTS.finditer(notes):
        begin = part.start("quoted")
        for span in find_rules(part["quoted"]):
            chars = (begin + span.start, begin + span.end)
            yield TextFact(span.kind, notes[slice(*chars)], chars)
