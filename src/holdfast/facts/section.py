"""Writes the facts section, one message with the facts that a compaction would have lost, and reads its rules back.

A rule of the user has a line of its own, with its turn; other facts stand on one line per kind. Words of tools stay
marked as data, because they must not become orders in a user's message. A section that is read back from a file is
recognised by its first line.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from holdfast.facts.fact import Fact, FactKind, TextFact
from holdfast.transcript.draft import Count, Line, Piece, piece_of_lines
from holdfast.transcript.speaker import SECTION_TITLE
from holdfast.transcript.turn import Role

SECTION_WRITER = "gate"
"""`Piece.writer` of a section."""
_RULES = {FactKind.PROHIBITION: "user forbids", FactKind.INSTRUCTION: "user asks"}
_RULE = re.compile(r"^- user (?P<verb>forbids|asks) \(turn (?P<turn>\d+)\): (?P<rule>[^\n]+)$", re.MULTILINE)
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


def read_rules(text: str) -> tuple[TextFact, ...]:
    """Returns the rules that a section carries."""
    kinds = {"forbids": FactKind.PROHIBITION, "asks": FactKind.INSTRUCTION}
    return tuple(TextFact(kinds[match["verb"]], match["rule"], match.span("rule")) for match in _RULE.finditer(text))


def section_line(fact: Fact) -> tuple[str, str]:
    """Returns the line that a fact goes to, as its first words and the separator of the facts on it."""
    if fact.kind in _RULES:
        return f"- {_RULES[fact.kind]} (turn {fact.turn + 1}): ", ""
    whose = "user's " if fact.speaker is Role.USER else "data: "
    return f"- {whose}{_NAMES[fact.kind]}: ", " | " if fact.kind in _PASSAGES else ", "


def line_cost(fact: Fact, begun: set[str], count: Count) -> int:
    """Returns the tokens that a fact adds at most to a section with the lines `begun`, given by their first words."""
    opening, separator = section_line(fact)
    if separator and opening in begun:
        return count(separator + fact.text)
    return count("\n" + opening + fact.text)


def write_section(facts: Sequence[Fact], ending: Sequence[Line] = ()) -> Piece:
    """Returns the message, rules first, and lines that end it; every line has the turns that it is from."""
    lines: dict[tuple[str, str], tuple[list[str], list[int]]] = {}
    for fact in sorted(facts, key=_sort_key):
        opening, separator = section_line(fact)
        texts, turns = lines.setdefault((opening, "" if separator else fact.text), ([], []))
        texts.append(fact.text)
        turns.append(fact.turn)
    separators = dict(map(section_line, facts))
    body = (
        Line(opening + separators[opening].join(texts), tuple(sorted(set(turns))))
        for (opening, _), (texts, turns) in lines.items()
    )
    return piece_of_lines((Line(SECTION_TITLE), *body, *ending), SECTION_WRITER)


def _sort_key(fact: Fact) -> tuple[int, int, int, int]:
    """Sorts rules by turn to the front, then facts of the user, then the others by kind and turn."""
    kinds = (*_RULES, *_NAMES)
    rule = fact.kind in _RULES
    return (
        0 if rule else 1,
        fact.turn if rule else int(fact.speaker is not Role.USER),
        kinds.index(fact.kind),
        fact.turn,
    )
