"""Reads the words of the user in a turn, with the rules that an earlier compaction quoted there."""

from __future__ import annotations

import re
from collections.abc import Iterator

from holdfast.facts.fact import TextFact
from holdfast.facts.notes import NotesSection
from holdfast.facts.prohibitions import RULE_KINDS, find_rules
from holdfast.facts.section import read_section
from holdfast.transcript.speaker import extract_own_words, is_made, split_voices
from holdfast.transcript.turn import Role, Turn

_CONSTRAINTS = re.compile(rf"^## {NotesSection.CONSTRAINTS}\n(?P<quoted>.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)


def read_carried_facts(turn: Turn) -> Iterator[tuple[Role, TextFact]]:
    """Yields what an earlier compaction wrote into this turn: rules, and other facts with a line of their own."""
    for voice in split_voices(turn) if turn.role is Role.USER else ():
        if is_made(voice):
            of_notes = voice.speaker is Role.ASSISTANT
            carried = _read_constraints(voice.text) if of_notes else read_section(voice.text)
            yield from ((speaker, fact.shift(voice.start)) for speaker, fact in carried)


def read_carried_rules(turn: Turn) -> Iterator[TextFact]:
    """Yields the user's rules that an earlier compaction wrote into this turn."""
    return (fact for _, fact in read_carried_facts(turn) if fact.kind in RULE_KINDS)


def extract_user_words(turn: Turn) -> str:
    """Returns the words of the user in a turn, carried rules included; empty if none are the user's."""
    return "\n".join(filter(None, (extract_own_words(turn), *(rule.text for rule in read_carried_rules(turn)))))


def _read_constraints(notes: str) -> Iterator[tuple[Role, TextFact]]:
    for part in _CONSTRAINTS.finditer(notes):
        begin = part.start("quoted")
        for span in find_rules(part["quoted"]):
            chars = (begin + span.start, begin + span.end)
            yield Role.USER, TextFact(span.kind, notes[slice(*chars)], chars)
