"""The facts section: one message with what a compaction would have lost, word for word.

Rules of the user have a line each, with their turn; other literals stand on one line per kind. What tools said stays
marked as data: a tool's words must not become orders because they now stand in a user's message. A section that is
read back from a file is known by its first line.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from holdfast.facts.extract import Atom
from holdfast.facts.literals import AtomKind
from holdfast.transcript.draft import Count, Line, Piece, made_of
from holdfast.transcript.speaker import FACTS
from holdfast.transcript.turn import Role

if TYPE_CHECKING:
    from holdfast.facts.ledger import Fact

MADE = "gate"
_RULES = {AtomKind.PROHIBITION: "user forbids", AtomKind.INSTRUCTION: "user asks"}
_RULE = re.compile(r"^- user (?P<verb>forbids|asks) \(turn (?P<turn>\d+)\): (?P<rule>[^\n]+)$", re.MULTILINE)
_NAMES = {
    AtomKind.ERROR: "errors",
    AtomKind.COMMAND: "commands",
    AtomKind.PATH: "paths",
    AtomKind.URL: "addresses",
    AtomKind.HASH: "hashes",
    AtomKind.VERSION: "versions",
    AtomKind.IDENTIFIER: "identifiers",
    AtomKind.NUMBER: "numbers",
    AtomKind.QUOTED: "quoted",
}
_WIDE = (AtomKind.ERROR, AtomKind.COMMAND, AtomKind.QUOTED)


def rules_in(text: str) -> tuple[Atom, ...]:
    """The rules that a section carries."""
    kinds = {"forbids": AtomKind.PROHIBITION, "asks": AtomKind.INSTRUCTION}
    return tuple(Atom(kinds[match["verb"]], match["rule"], match.span("rule")) for match in _RULE.finditer(text))


def place(fact: Fact) -> tuple[str, str]:
    """Which line a fact goes to, as its beginning and what parts the facts on it."""
    if fact.kind in _RULES:
        return f"- {_RULES[fact.kind]} (turn {fact.turn + 1}): ", ""
    whose = "user's " if fact.speaker is Role.USER else "data: "
    return f"- {whose}{_NAMES[fact.kind]}: ", " | " if fact.kind in _WIDE else ", "


def cost(fact: Fact, begun: set[str], count: Count) -> int:
    """Tokens that a fact adds at most to a section in which these lines have begun."""
    begins, between = place(fact)
    if between and begins in begun:
        return count(between + fact.text)
    return count("\n" + begins + fact.text)


def section(facts: Sequence[Fact]) -> Piece:
    """The message, rules first; every line names the turns that it is from."""
    lines: dict[tuple[str, str], tuple[list[str], list[int]]] = {}
    for fact in sorted(facts, key=_order):
        begins, between = place(fact)
        texts, turns = lines.setdefault((begins, "" if between else fact.text), ([], []))
        texts.append(fact.text)
        turns.append(fact.turn)
    joins = dict(map(place, facts))
    body = (
        Line(begins + joins[begins].join(texts), tuple(sorted(set(turns))))
        for (begins, _), (texts, turns) in lines.items()
    )
    return made_of((Line(FACTS), *body), MADE)


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
