"""The facts section: one message with what a compaction would have lost, word for word.

Rules of the user have a line each, with their turn; other literals stand on one line per kind. What tools said stays
marked as data: a tool's words must not become orders because they now stand in a user's message. A section that is
read back from a file is known by its first line.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from holdfast.facts.extract import TextFact
from holdfast.facts.literals import FactKind
from holdfast.transcript.draft import Count, Line, Piece, piece_of_lines
from holdfast.transcript.speaker import SECTION_TITLE
from holdfast.transcript.turn import Role

if TYPE_CHECKING:
    from holdfast.facts.session_facts import Fact

SECTION_WRITER = "gate"
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
_WIDE = (FactKind.ERROR, FactKind.COMMAND, FactKind.QUOTED)


def read_rules(text: str) -> tuple[TextFact, ...]:
    """The rules that a section carries."""
    kinds = {"forbids": FactKind.PROHIBITION, "asks": FactKind.INSTRUCTION}
    return tuple(TextFact(kinds[match["verb"]], match["rule"], match.span("rule")) for match in _RULE.finditer(text))


def section_line(fact: Fact) -> tuple[str, str]:
    """Which line a fact goes to, as its beginning and what parts the facts on it."""
    if fact.kind in _RULES:
        return f"- {_RULES[fact.kind]} (turn {fact.turn + 1}): ", ""
    whose = "user's " if fact.speaker is Role.USER else "data: "
    return f"- {whose}{_NAMES[fact.kind]}: ", " | " if fact.kind in _WIDE else ", "


def line_cost(fact: Fact, begun: set[str], count: Count) -> int:
    """Tokens that a fact adds at most to a section in which these lines have begun."""
    begins, between = section_line(fact)
    if between and begins in begun:
        return count(between + fact.text)
    return count("\n" + begins + fact.text)


def write_section(facts: Sequence[Fact]) -> Piece:
    """The message, rules first; every line names the turns that it is from."""
    lines: dict[tuple[str, str], tuple[list[str], list[int]]] = {}
    for fact in sorted(facts, key=_order):
        begins, between = section_line(fact)
        texts, turns = lines.setdefault((begins, "" if between else fact.text), ([], []))
        texts.append(fact.text)
        turns.append(fact.turn)
    joins = dict(map(section_line, facts))
    body = (
        Line(begins + joins[begins].join(texts), tuple(sorted(set(turns))))
        for (begins, _), (texts, turns) in lines.items()
    )
    return piece_of_lines((Line(SECTION_TITLE), *body), SECTION_WRITER)


def _order(fact: Fact) -> tuple[int, int, int, int]:
    """Rules by turn, then what the user said, then by kind and turn."""
    kinds = (*_RULES, *_NAMES)
    rule = fact.kind in _RULES
    return (
        0 if rule else 1,
        fact.turn if rule else int(fact.speaker is not Role.USER),
        kinds.index(fact.kind),
        fact.turn,
    )
