"""The gate for text: every live fact of what was compacted is in the result word for word, put back, or listed as lost.

Rules of the user are put back whatever the budget; the rest by worth, as far as the budget goes. Deterministic, and
knows no model. A result without losses is returned as it is.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from holdfast.errors import Lost
from holdfast.facts.fact import Fact, FactKind
from holdfast.facts.occurrences import SearchableText, occurs_in, visible_text
from holdfast.facts.prohibitions import RULE_KINDS
from holdfast.facts.section import line_cost, section_line, write_section
from holdfast.facts.session_facts import SessionFacts
from holdfast.gate.text.claims import StruckSentence, strike_claims
from holdfast.methods.text.base import Room
from holdfast.transcript.activity import Activity, find_activity
from holdfast.transcript.draft import Count, Draft, Piece, task_piece, turn_size
from holdfast.transcript.speaker import is_section
from holdfast.transcript.tools import answers_text_call
from holdfast.transcript.turn import Role, Turn

SHARE = 0.2
"""Of the budget, that is kept free of the method's result for facts to come back."""
_PASSES = 4  # over what did not fit: an estimate of a fact's cost is never too low, but may be too high
_WORTH = {
    **dict.fromkeys((FactKind.PATH, FactKind.IDENTIFIER, FactKind.URL, FactKind.VERSION, FactKind.HASH), 3),
    **dict.fromkeys((FactKind.NUMBER, FactKind.COMMAND), 4),
    FactKind.QUOTED: 5,
    FactKind.ERROR: 1,
}
_WIDE = (*RULE_KINDS, FactKind.ERROR, FactKind.COMMAND, FactKind.QUOTED)


@dataclass(frozen=True)
class TextReport:
    """What the gate saw."""

    facts: dict[str, Counter[str]] = field(default_factory=dict)
    """Per kind, of what was compacted: how many are `live`, and of these `kept`, `restored` or `lost`; and how many
    are `superseded`."""
    restored: tuple[Fact, ...] = ()
    lost: tuple[Fact, ...] = ()
    struck: tuple[StruckSentence, ...] = ()
    over: int = 0
    """Tokens above the budget."""
    section: int = 0
    """Tokens of the facts section."""
    seconds: float = 0.0

    def total(self, what: str) -> int:
        return sum(counts[what] for counts in self.facts.values())

    @property
    def rules(self) -> int:
        """Rules of the user that were put back: they are, whatever the budget."""
        return sum(fact.kind in RULE_KINDS for fact in self.restored)

    def as_evidence(self) -> dict[str, Any]:
        return {
            "atoms": {kind: dict(counts) for kind, counts in self.facts.items()},
            "restored": [describe_fact(fact) for fact in self.restored],
            "lost": [describe_fact(fact) for fact in self.lost],
            "struck": [{"sentence": struck.sentence, "reason": struck.reason} for struck in self.struck],
            "tokens_over": self.over,
            "rules_restored": self.rules,
            "tokens_of_facts": self.section,
            "seconds": round(self.seconds, 3),
        }

    def refuse(self) -> None:
        """Raise Lost where an atom is lost."""
        if self.lost:
            first = ", ".join(f"{x.kind.value} {x.text!r} (turn {x.turn + 1})" for x in self.lost[:5])
            more = f" and {len(self.lost) - 5} more" if len(self.lost) > 5 else ""
            raise Lost(
                f"{len(self.lost)} atoms would be lost: {first}{more}; use a larger budget, allow more room "
                "(--allow-over), or go without --strict",
                [describe_fact(fact) for fact in self.lost],
            )


def describe_fact(fact: Fact) -> dict[str, object]:
    """A fact for evidence; its turn is counted from 1, as `holdfast expand` takes it."""
    return {
        "kind": fact.kind.value,
        "text": fact.text,
        "turn": fact.turn + 1,
        "speaker": fact.speaker.value,
    }


def drop_section(held: Draft) -> Draft:
    """The draft without a standing facts section: its facts are weighed anew, so sections never nest or pile up."""
    return held.keep(at for at, piece in enumerate(held.pieces) if not is_section(piece.turn))


def reserve_tokens(held: Draft, known: SessionFacts, room: Room) -> int:
    """Tokens that a method should leave free: the rules that it may drop, and a share of the budget."""
    free = set(room.free(held))
    fixed = {at for index, piece in enumerate(held.pieces) if index not in free for at in piece.turns}
    droppable = [fact for fact in known.live if not any(place.turn in fixed for place in fact.live)]
    if not droppable:
        return 0
    rules = [fact for fact in droppable if fact.kind in RULE_KINDS]
    needed = turn_size(write_section(rules).turn, room.count)
    return min(needed + int(SHARE * room.budget), turn_size(write_section(droppable).turn, room.count))


def check_draft(
    held: Draft, known: SessionFacts, room: Room, *, seen: Activity | None = None, allow_over: float = 0.0
) -> tuple[Draft, TextReport]:
    """Strike what is not so, put back what is missing, and say what is lost. `held` has no facts section."""
    began = time.perf_counter()
    held, struck = strike_claims(held, seen or find_activity(held.raw.turns))
    facts = _compacted(held, known)
    missing = _missing(held, [fact for fact in facts if fact.superseded_by is None])
    limit = int(room.budget * (1 + allow_over)) - held.size(room.count)
    back = write_section(_chosen(missing, limit, room.count, known.written))
    told = SearchableText(back.turn.text)
    restored = tuple(fact for fact in missing if told.contains(fact.text, fact.kind))
    lost = tuple(fact for fact in missing if not told.contains(fact.text, fact.kind))
    made = _with(held, back, room.frozen) if restored else held
    report = TextReport(
        _counts(facts, restored, lost),
        restored,
        lost,
        struck,
        max(0, made.size(room.count) - room.budget),
        turn_size(back.turn, room.count) if restored else 0,
        time.perf_counter() - began,
    )
    return made, report


def _verbatim(held: Draft) -> set[int]:
    return {piece.at for piece in held.pieces if not piece.writer and piece.at is not None}


def _compacted(held: Draft, known: SessionFacts) -> list[Fact]:
    """The facts that stand in a turn that is not in the result as it was."""
    verbatim = _verbatim(held)
    return [fact for fact in known.facts if any(place.turn not in verbatim for place in fact.occurrences)]


def _missing(held: Draft, live: Sequence[Fact]) -> list[Fact]:
    """Those that the result does not hold. A rule must be said by someone whose word counts, so not by a tool."""
    verbatim = _verbatim(held)
    said = SearchableText("\n".join(visible_text(piece.turn) for piece in held.pieces))
    ruled = SearchableText("\n".join(visible_text(turn) for turn in held.turns if _may_rule(turn)))
    return [
        fact
        for fact in live
        if not any(place.turn in verbatim for place in fact.live)
        and not (ruled if fact.kind in RULE_KINDS else said).contains(fact.text, fact.kind)
    ]


def _may_rule(turn: Turn) -> bool:
    return turn.role in (Role.USER, Role.SYSTEM) and not answers_text_call(turn)


def _chosen(missing: Sequence[Fact], limit: int, count: Count, written: frozenset[str]) -> list[Fact]:
    """What goes into the section: every rule, then by worth what still fits into `limit` tokens."""
    chosen = [fact for fact in missing if fact.kind in RULE_KINDS]
    rest = sorted((fact for fact in missing if fact.kind not in RULE_KINDS), key=lambda fact: _worth(fact, written))
    for _ in range(_PASSES):
        left = limit - turn_size(write_section(chosen).turn, count)
        added = _fill(chosen, rest, left, count)
        if not added:
            break
        chosen += added
        taken = {(fact.kind, fact.text) for fact in added}
        rest = [fact for fact in rest if (fact.kind, fact.text) not in taken]
    while chosen and chosen[-1].kind not in RULE_KINDS and turn_size(write_section(chosen).turn, count) > limit:
        chosen.pop()
    return chosen


def _fill(chosen: Sequence[Fact], rest: Sequence[Fact], left: int, count: Count) -> list[Fact]:
    """Those of `rest` that fit into `left` tokens; what a longer one holds comes with it."""
    begun = {section_line(fact)[0] for fact in chosen}
    wide = "\n".join(fact.text for fact in chosen if fact.kind in _WIDE)
    added: list[Fact] = []
    for fact in rest:
        if occurs_in(fact.text, fact.kind, wide):
            continue
        needed = line_cost(fact, begun, count)
        if needed > left:
            continue
        left -= needed
        added.append(fact)
        begun.add(section_line(fact)[0])
        if fact.kind in _WIDE:
            wide += "\n" + fact.text
    return added


def _worth(fact: Fact, written: frozenset[str]) -> tuple[int, int]:
    """The smaller, the better: said by the user, errors, files written, names, numbers, quotes; the newer first."""
    if fact.speaker is Role.USER:
        return 0, -fact.turn
    if fact.kind is FactKind.PATH and fact.text in written:
        return 2, -fact.turn
    return _WORTH[fact.kind], -fact.turn


def _with(held: Draft, piece: Piece, frozen: int) -> Draft:
    """The section stands right behind the task and what is frozen: between two units, so no result loses its call."""
    task = task_piece(held)
    head = next((at for at, old in enumerate(held.pieces) if old.turn.role is not Role.SYSTEM), len(held.pieces))
    at = max(head if task is None else task + 1, frozen)
    return held.replace_pieces(at, at, piece)


def _counts(facts: Sequence[Fact], restored: Sequence[Fact], lost: Sequence[Fact]) -> dict[str, Counter[str]]:
    counts: dict[str, Counter[str]] = {}
    for fact in facts:
        state = "superseded" if fact.superseded_by is not None else "live"
        counts.setdefault(fact.kind.value, Counter(live=0, kept=0, restored=0, lost=0, superseded=0))[state] += 1
    for what, which in (("restored", restored), ("lost", lost)):
        for fact in which:
            counts[fact.kind.value][what] += 1
    for each in counts.values():
        each["kept"] = each["live"] - each["restored"] - each["lost"]
    return counts
