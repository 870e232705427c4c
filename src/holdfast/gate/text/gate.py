"""The gate for text: every live fact of a turn that was compacted is in the result, put back, or reported as lost.

Rules of the user are put back whatever the budget is; other facts by worth, as far as the budget goes. The gate is
deterministic and asks no model. A result without losses is returned as it is.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from holdfast.errors import Lost
from holdfast.facts.fact import Fact, FactKind
from holdfast.facts.occurrences import SearchableText, occurs_in, visible_text
from holdfast.facts.prohibitions import LIFTABLE_KINDS, RULE_KINDS, STANDING_KINDS
from holdfast.facts.section import line_cost, section_line, write_section
from holdfast.facts.session_facts import SessionFacts, collect_sentences
from holdfast.facts.words_around import add_words
from holdfast.gate.text.claims import StruckSentence, strike_claims
from holdfast.methods.text.base import Room
from holdfast.transcript.draft import Count, Draft, Line, Piece, task_piece, turn_ranges, turn_size
from holdfast.transcript.injections import Owner
from holdfast.transcript.speaker import is_made, is_section, split_voices
from holdfast.transcript.task import find_task
from holdfast.transcript.turn import Role, Turn

SHARE = 0.2
"""Share of the budget that the method's result leaves free for facts to come back."""
WORDS_SHARE = 0.05
"""Share of the budget that may be spent on words around numbers, where there is room."""
_PASSES = 4  # over what did not fit: an estimate of a fact's cost is never too low, but may be too high
_WORTH = {
    **dict.fromkeys((FactKind.PATH, FactKind.IDENTIFIER, FactKind.URL, FactKind.VERSION, FactKind.HASH), 3),
    **dict.fromkeys((FactKind.NUMBER, FactKind.COMMAND), 4),
    FactKind.QUOTED: 5,
    FactKind.ERROR: 1,
}
_LONG_KINDS = (*STANDING_KINDS, FactKind.TASK, FactKind.ERROR, FactKind.COMMAND, FactKind.QUOTED)


@dataclass(frozen=True)
class TextReport:
    """The findings of the gate."""

    facts: dict[str, Counter[str]] = field(default_factory=dict)
    """Per kind, the facts of compacted turns: the number `live`, and of these `kept`, `restored` or `lost`; and the
    number `superseded`.
    """
    restored: tuple[Fact, ...] = ()
    lost: tuple[Fact, ...] = ()
    struck: tuple[StruckSentence, ...] = ()
    over: int = 0
    """Tokens above the budget."""
    section: int = 0
    """Tokens of the facts section."""
    seconds: float = 0.0

    def total(self, state: str) -> int:
        return sum(counts[state] for counts in self.facts.values())

    @property
    def rules(self) -> int:
        """Number of the user's rules that were put back: they are, whatever the budget is."""
        return sum(fact.kind in RULE_KINDS for fact in self.restored)

    @property
    def standing(self) -> int:
        """Number of the facts put back that come back whatever the budget is: rules and live handles."""
        return sum(fact.kind in STANDING_KINDS for fact in self.restored)

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
        """Raises Lost if a fact is lost."""
        if self.lost:
            first = ", ".join(f"{x.kind.value} {x.text!r} (turn {x.turn + 1})" for x in self.lost[:5])
            more = f" and {len(self.lost) - 5} more" if len(self.lost) > 5 else ""
            raise Lost(
                f"{len(self.lost)} facts would be lost: {first}{more}; use a larger budget, allow more room "
                "(--allow-over), or go without --strict",
                [describe_fact(fact) for fact in self.lost],
            )


def describe_fact(fact: Fact) -> dict[str, object]:
    """Returns a fact as evidence; its turn is counted from 1, as `holdfast expand` takes it."""
    return {
        "kind": fact.kind.value,
        "text": fact.text,
        "turn": fact.turn + 1,
        "speaker": fact.speaker.value,
    }


def drop_section(draft: Draft) -> Draft:
    """Returns the draft without a standing facts section: its facts are weighed again, so sections never pile up."""
    return draft.keep(at for at, piece in enumerate(draft.pieces) if not is_section(piece.turn))


def reserve_tokens(draft: Draft, facts: SessionFacts, room: Room) -> int:
    """Returns the tokens that a method should leave free: for the rules that it may drop, and a share of the budget."""
    free = set(room.free(draft))
    fixed = {at for index, piece in enumerate(draft.pieces) if index not in free for at in piece.turns}
    droppable = [fact for fact in facts.live if not any(place.turn in fixed for place in fact.live)]
    if not droppable:
        return 0
    rules = [fact for fact in droppable if fact.kind in STANDING_KINDS]
    needed = turn_size(write_section(rules).turn, room.count)
    return min(needed + int(SHARE * room.budget), turn_size(write_section(droppable).turn, room.count))


def check_draft(draft: Draft, facts: SessionFacts, room: Room, *, allow_over: float = 0.0) -> tuple[Draft, TextReport]:
    """Strikes false claims, puts missing facts back, and reports the lost ones.

    `draft` has no facts section; `facts` are those of its raw session.
    """
    began = time.perf_counter()
    draft, struck = strike_claims(draft, facts.activity)
    compacted = [*_facts_of_compacted_turns(draft, facts), *_sentences_of_the_task(draft)]
    missing = _find_missing(draft, [fact for fact in compacted if fact.superseded_by is None])
    ending = _explain_absence(draft, room)
    closing = sum(room.count(f"\n{end.text}") for end in ending)
    limit = int(room.budget * (1 + allow_over)) - draft.size(room.count) - closing
    section = _write_facts(draft, choose_facts(missing, limit, room.count, facts.written), limit, room, ending)
    section_text = SearchableText(section.turn.text)
    restored = tuple(fact for fact in missing if section_text.contains(fact.text, fact.kind))
    lost = tuple(fact for fact in missing if not section_text.contains(fact.text, fact.kind))
    result = _insert_section(draft, section, room.frozen) if restored or ending else draft
    report = TextReport(
        _count_states(compacted, restored, lost),
        restored,
        lost,
        struck,
        max(0, result.size(room.count) - room.budget),
        turn_size(section.turn, room.count) if restored or ending else 0,
        time.perf_counter() - began,
    )
    return result, report


def _write_facts(draft: Draft, chosen: Sequence[Fact], limit: int, room: Room, ending: Sequence[Line]) -> Piece:
    """Returns the section; its numbers have the words around them as far as there is room."""
    bare = write_section(chosen, ending)
    left = limit - turn_size(write_section(chosen).turn, room.count)
    wordy = add_words(chosen, draft.raw.turns, min(left, int(WORDS_SHARE * room.budget)), room.count)
    section = write_section(wordy, ending)
    return section if turn_size(section.turn, room.count) - turn_size(bare.turn, room.count) <= left else bare


def _explain_absence(draft: Draft, room: Room) -> tuple[Line, ...]:
    """Returns the line that says which turns the result does not hold in full and how they are read; none where the
    caller knows no way, or where nothing went.
    """
    raw, whole = draft.raw.turns, _verbatim_turns(draft)
    covered = {at for piece in draft.pieces if not is_section(piece.turn) for at in piece.turns}
    gone, short = (
        [at for at in range(len(raw)) if at not in whole and (at in covered) == kept] for kept in (False, True)
    )
    if not room.lookup or not (gone or short):
        return ()
    tokens = sum(turn_size(raw[at], room.count) for at in gone)
    parts = [f"turns {turn_ranges(gone)} went ({tokens:,} tokens)"] if gone else []
    parts += [f"turns {turn_ranges(short)} were shortened"] if short else []
    return (Line(f"- not here in full: {'; '.join(parts)}. {room.lookup}"),)


def _verbatim_turns(draft: Draft) -> set[int]:
    return {piece.at for piece in draft.pieces if not piece.writer and piece.at is not None}


def _facts_of_compacted_turns(draft: Draft, facts: SessionFacts) -> list[Fact]:
    """Returns the facts that stand in a turn that is not in the result as it was."""
    verbatim = _verbatim_turns(draft)
    return [fact for fact in facts.facts if any(place.turn not in verbatim for place in fact.occurrences)]


def _sentences_of_the_task(draft: Draft) -> Sequence[Fact]:
    """Returns the sentences of the task where it is not in the result as it was: what it lost is put back or listed."""
    task = find_task(draft.raw.turns)
    return () if task is None or task in _verbatim_turns(draft) else collect_sentences(draft.raw.turns[task], task)


def _find_missing(draft: Draft, live: Sequence[Fact]) -> list[Fact]:
    """Returns the facts that the result does not hold. A rule counts only in words that may rule: of the user, of a
    system turn, of a rule file, or of this facts section.
    """
    verbatim = _verbatim_turns(draft)
    all_text = SearchableText("\n".join(visible_text(piece.turn) for piece in draft.pieces))
    rule_text = SearchableText("\n".join(words for turn in draft.turns for words in _ruling_words(turn)))
    return [
        fact
        for fact in live
        if not any(place.turn in verbatim for place in fact.live)
        and not (rule_text if fact.kind in LIFTABLE_KINDS else all_text).contains(fact.text, fact.kind)
    ]


def _ruling_words(turn: Turn) -> Iterator[str]:
    for voice in split_voices(turn) if turn.role in (Role.USER, Role.SYSTEM) else ():
        of_result = voice.owner is None and voice.speaker is Role.TOOL and not is_made(voice)
        if voice.owner in (None, Owner.RULES) and not of_result:
            yield voice.text


def choose_facts(missing: Sequence[Fact], limit: int, count: Count, written: frozenset[str]) -> list[Fact]:
    """Returns the facts for the section: every rule and live handle, then by worth those that still fit into `limit`
    tokens.
    """
    chosen = [fact for fact in missing if fact.kind in STANDING_KINDS]
    rest = sorted((fact for fact in missing if fact.kind not in STANDING_KINDS), key=lambda fact: _worth(fact, written))
    for _ in range(_PASSES):
        left = limit - turn_size(write_section(chosen).turn, count)
        added = _fill(chosen, rest, left, count)
        if not added:
            break
        chosen += added
        done = {(fact.kind, fact.text) for fact in added}
        rest = [fact for fact in rest if (fact.kind, fact.text) not in done]
    while chosen and chosen[-1].kind not in STANDING_KINDS and turn_size(write_section(chosen).turn, count) > limit:
        chosen.pop()
    return chosen


def _fill(chosen: Sequence[Fact], rest: Sequence[Fact], left: int, count: Count) -> list[Fact]:
    """Returns those of `rest` that fit into `left` tokens; a fact inside a longer one comes with it."""
    begun = {section_line(fact)[0] for fact in chosen}
    long_text = "\n".join(fact.text for fact in chosen if fact.kind in _LONG_KINDS)
    added: list[Fact] = []
    for fact in rest:
        if occurs_in(fact.text, fact.kind, long_text):
            continue
        needed = line_cost(fact, begun, count)
        if needed > left:
            continue
        left -= needed
        added.append(fact)
        begun.add(section_line(fact)[0])
        if fact.kind in _LONG_KINDS:
            long_text += "\n" + fact.text
    return added


def _worth(fact: Fact, written: frozenset[str]) -> tuple[int, int]:
    """Sorts the most valuable first: the task's, the user's, errors, files written, names, numbers, quotes; newer ones
    first.
    """
    if fact.kind is FactKind.TASK:
        return -1, fact.turn
    if fact.speaker is Role.USER:
        return 0, -fact.turn
    if fact.kind is FactKind.PATH and fact.text in written:
        return 2, -fact.turn
    return _WORTH[fact.kind], -fact.turn


def _insert_section(draft: Draft, section: Piece, frozen: int) -> Draft:
    """Puts the section right behind the task and the frozen pieces: between two units, so no result loses its call."""
    task = task_piece(draft)
    head = next((at for at, old in enumerate(draft.pieces) if old.turn.role is not Role.SYSTEM), len(draft.pieces))
    at = max(head if task is None else task + 1, frozen)
    return draft.replace_pieces(at, at, section)


def _count_states(facts: Sequence[Fact], restored: Sequence[Fact], lost: Sequence[Fact]) -> dict[str, Counter[str]]:
    counts: dict[str, Counter[str]] = {}
    for fact in facts:
        state = "superseded" if fact.superseded_by is not None else "live"
        counts.setdefault(fact.kind.value, Counter(live=0, kept=0, restored=0, lost=0, superseded=0))[state] += 1
    for state, those in (("restored", restored), ("lost", lost)):
        for fact in those:
            counts[fact.kind.value][state] += 1
    for each in counts.values():
        each["kept"] = each["live"] - each["restored"] - each["lost"]
    return counts
