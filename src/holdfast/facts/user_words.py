"""The user's own words in a turn, those included that an earlier compaction quoted there."""

from __future__ import annotations

import re
from collections.abc import Iterator

from holdfast.facts.extract import Atom
from holdfast.facts.notes import Section
from holdfast.facts.passages import instructions
from holdfast.facts.section import rules_in
from holdfast.transcript.speaker import own_words, voices
from holdfast.transcript.turn import Role, Turn

_CONSTRAINTS = re.compile(rf"^## {Section.CONSTRAINTS}\n(?P<quoted>.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)


def carried(turn: Turn) -> Iterator[Atom]:
    """The user's rules that an earlier compaction wrote down in this turn."""
    for voice in voices(turn) if turn.role is Role.USER else ():
        if voice.speaker is not Role.USER:
            found = rules_in(voice.text) if voice.speaker is Role.TOOL else _quoted(voice.text)
            yield from (atom.moved(voice.start) for atom in found)


def user_words(turn: Turn) -> str:
    """What the user says in a turn; empty where it is not the user's."""
    return "\n".join(filter(None, (own_words(turn), *(atom.text for atom in carried(turn)))))


def _quoted(notes: str) -> Iterator[Atom]:
    for part in _CONSTRAINTS.finditer(notes):
        begin = part.start("quoted")
        for span in instructions(part["quoted"]):
            chars = (begin + span.start, begin + span.end)
            yield Atom(span.kind, notes[slice(*chars)], chars)
