"""Writes the facts section, one message with the facts that a compaction would have lost, and reads its rules back.

A rule, a sentence of the task and a live handle have a line each, with their turn; other facts stand on one line per
kind. Words of tools stay marked as data, because they must not become orders in a user's message. A section that is
read back from a file is recognised by its first line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from holdfast.facts.fact import Fact, FactKind, TextFact
from holdfast.facts.prohibitions import RULE_KINDS
from holdfast.transcript.draft import Count, Line, Piece, piece_of_lines
from holdfast.transcript.speaker import SECTION_TITLE
from holdfast.transcript.turn import Role

SECTION_WRITER = "gate"
"""`Piece.writer` of a section."""
_LINES = {
    FactKind.PROHIBITION: "user forbids",
    FactKind.INSTRUCTION: "user asks",
    FactKind.TASK: "of the task",
    FactKind.PROJECT_RULE: "rule of {}",
    FactKind.HANDLE: "live",
}
"""The first words of a kind whose facts have a line each, in their order."""
_LINE = re.compile(
    r"^- (?P<words>user forbids|user asks|of the task|live|rule of (?P<source>[^\n]{1,300}?))"
    r" \(turn (?P<turn>\d+)\): (?P<text>[^\n]+)$",
    re.MULTILINE,
)
_SPEAKERS = {FactKind.PROJECT_RULE: Role.SYSTEM, FactKind.HANDLE: Role.TOOL}
_NAMES = {
    FactKind.ERROR: "errors",
    FactKind.COMMAND: "commands",
    FactKind.PATH: "paths",
    FactKind.URL: "addresses",
    FactKind.HASH: "hashes",
    FactKind.VERSION: "versions",
    FactKind.IDENTIFIER: "identifiers",
    FactKind.NUMBER: "numbers",
    FactKind.QUOTED: "quoted",
}
_PASSAGES = (FactKind.ERROR, FactKind.COMMAND, FactKind.QUOTED)
_SHORT = 2  # words of a literal with its unit; more are words around it


def read_section(text: str) -> Iterator[tuple[Role, TextFact]]:
    """Yields the facts that have a line of their own in a section, each with the speaker that it stands for."""
    kinds = {words: kind for kind, words in _LINES.items()}
    for match in _LINE.finditer(text):
        kind = FactKind.PROJECT_RULE if match["source"] else kinds[match["words"]]
        yield _SPEAKERS.get(kind, Role.USER), TextFact(kind, match["text"], match.span("text"), match["source"] or "")


def section_line(fact: Fact) -> tuple[str, str]:
    """Returns the line that a fact goes to, as its first words and the separator of the facts on it."""
    if words := _LINES.get(fact.kind):
        return f"- {words.format(fact.source or 'the project')} (turn {fact.turn + 1}): ", ""
    whose = "user's " if fact.speaker is Role.USER else "data: "
    wordy = fact.kind in _PASSAGES or len(fact.text.split()) > _SHORT
    return f"- {whose}{_NAMES[fact.kind]}: ", " | " if wordy else ", "


def line_cost(fact: Fact, begun: set[str], count: Count) -> int:
    """Returns the tokens that a fact adds at most to a section with the lines `begun`, given by their first words."""
    opening, separator = section_line(fact)
    if separator and opening in begun:
        return count(separator + fact.text)
    return count("\n" + opening + fact.text)


def write_section(facts: Sequence[Fact], ending: Sequence[Line] = ()) -> Piece:
    """Returns the message, rules first, and lines that end it; every line has the turns that it is from."""
    lines: dict[tuple[str, str, str], tuple[list[str], list[int]]] = {}
    for fact in sorted(facts, key=_sort_key):
        opening, separator = section_line(fact)
        texts, turns = lines.setdefault((opening, separator, "" if separator else fact.text), ([], []))
        texts.append(fact.text)
        turns.append(fact.turn)
    body = (
        Line(opening + separator.join(texts), tuple(sorted(set(turns))))
        for (opening, separator, _), (texts, turns) in lines.items()
    )
    return piece_of_lines((Line(SECTION_TITLE), *body, *ending), SECTION_WRITER)


def _sort_key(fact: Fact) -> tuple[int, int, int, int]:
    """Sorts the user's rules by turn to the front, then the other facts with a line of their own, then facts of the
    user, then the others by kind and turn.
    """
    kinds = (*_LINES, *_NAMES)
    if fact.kind in RULE_KINDS:
        return 0, fact.turn, kinds.index(fact.kind), fact.turn
    own = 0 if fact.kind in _LINES else 1 + (fact.speaker is not Role.USER)
    return 1, own, kinds.index(fact.kind), fact.turn
