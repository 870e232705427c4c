"""Who really speaks in a turn, and which of its words are the user's own."""

from __future__ import annotations

import re
from collections.abc import Iterator

from holdfast.gate.atoms import Atom
from holdfast.gate.literals import AtomKind
from holdfast.gate.passages import instructions
from holdfast.gate.section import is_section, rules_in
from holdfast.methods.text.sections import Section, is_notes
from holdfast.transcript.tools import answers_text_call
from holdfast.transcript.turn import Role, Turn

_CONSTRAINTS = re.compile(rf"^## {Section.CONSTRAINTS}\n(?P<quoted>.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)


def speaker(turn: Turn) -> Role:
    """Who really speaks: a user message that only carries a call's result is the tool's, notes are the model's."""
    if answers_text_call(turn) or is_section(turn):
        return Role.TOOL
    return Role.ASSISTANT if is_notes(turn) else turn.role


def carried(turn: Turn) -> tuple[Atom, ...]:
    """The user's rules that an earlier compaction wrote down in this turn."""
    return rules_in(turn.text) if is_section(turn) else tuple(_quoted(turn)) if is_notes(turn) else ()


def user_words(turn: Turn) -> str:
    """What the user says in a turn; empty where it is not the user's."""
    return turn.text if speaker(turn) is Role.USER else "\n".join(atom.text for atom in carried(turn))


def _quoted(turn: Turn) -> Iterator[Atom]:
    for part in _CONSTRAINTS.finditer(turn.text):
        begin = part.start("quoted")
        for span in instructions(part["quoted"]):
            chars = (begin + span.start, begin + span.end)
            yield Atom(AtomKind(span.kind), turn.text[slice(*chars)], chars)
