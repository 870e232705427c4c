"""Collects every fact of a session once, with all its occurrences and the turn that ended it.

The same text of the same kind is one fact, in however many places it stands. It is live as long as one occurrence is:
an occurrence in an older state of a file or of a command's output is superseded (`supersession`). A rule is live until
the user lifts it (`lifts`): no tool result and no assistant can. No model is asked.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import groupby

from holdfast.facts.extract import extract_facts
from holdfast.facts.fact import Fact, FactKind, Occurrence, TextFact
from holdfast.facts.lifts import Lift, find_lifts, topic_words
from holdfast.facts.prohibitions import RULE_KINDS
from holdfast.facts.supersession import find_supersession
from holdfast.facts.user_words import read_carried_rules
from holdfast.transcript.activity import Activity, find_activity
from holdfast.transcript.speaker import extract_own_words, split_voices
from holdfast.transcript.turn import Role, Transcript, Turn


@dataclass(frozen=True)
class SessionFacts:
    """The facts of a session, ordered by their first occurrence."""

    facts: tuple[Fact, ...]
    written: frozenset[str] = frozenset()
    """Paths that the agent wrote."""
    activity: Activity = field(default_factory=Activity, repr=False)
    """The commands and file accesses of the session, for whoever needs them too."""

    @property
    def live(self) -> tuple[Fact, ...]:
        return tuple(fact for fact in self.facts if fact.superseded_by is None)


def collect_facts(transcript: Transcript) -> SessionFacts:
    """Returns the facts of a session. Takes time linear in its length."""
    turns = transcript.turns
    activity = find_activity(turns)
    stale = find_supersession(turns, activity)
    lifts = find_lifts([(at, words) for at, turn in enumerate(turns) if (words := extract_own_words(turn))])
    of_turn = {at: list(group) for at, group in groupby(lifts, key=lambda lift: lift.turn)}
    by_word = _index_lifts(lifts)
    places: dict[tuple[FactKind, str], list[Occurrence]] = {}
    for at, turn in enumerate(turns):
        for part, speaker, fact in _facts_of_turn(turn, of_turn.get(at, ())):
            text = _without_json_escapes(fact.text) if part else fact.text
            end = _find_lift(fact, at, by_word) if fact.kind in RULE_KINDS else stale.find(at, part, fact)
            places.setdefault((fact.kind, text), []).append(Occurrence(at, part, fact, speaker, end))
    facts = tuple(Fact(kind, text, tuple(found)) for (kind, text), found in places.items())
    return SessionFacts(facts, stale.written, activity)


def _facts_of_turn(turn: Turn, lifts: Sequence[Lift]) -> Iterator[tuple[int, Role, TextFact]]:
    """Yields the facts of a turn, each with its part and speaker.

    A sentence that lifts a rule is a rule itself, because it must survive too.
    """
    yield from ((0, Role.USER, fact) for fact in read_carried_rules(turn))
    spans = set()
    for voice in split_voices(turn):
        for found in _extract_facts(voice.text, voice.speaker):
            fact = found.shift(voice.start)
            spans.add(fact.chars)
            yield 0, voice.speaker, fact
    rest = [lift.chars for lift in lifts if lift.chars not in spans]
    yield from ((0, Role.USER, TextFact(FactKind.INSTRUCTION, turn.text[slice(*chars)], chars)) for chars in rest)
    for part, call in enumerate(turn.calls, 1):
        yield from ((part, turn.role, fact) for fact in _extract_facts(call.arguments, turn.role))


@lru_cache(maxsize=1 << 13)
def _extract_facts(text: str, speaker: Role) -> tuple[TextFact, ...]:
    # A session is read again at every round, and most of it has not changed.
    return extract_facts(text, speaker) if text else ()


def _without_json_escapes(text: str) -> str:
    """Returns a piece of JSON without its escapes, if that is one printable line; else the piece."""
    if "\\" not in text:
        return text
    try:
        plain = json.loads(f'"{text}"')
    except ValueError:
        return text
    return plain if isinstance(plain, str) and plain.isprintable() else text


def _index_lifts(lifts: Sequence[Lift]) -> dict[str, list[Lift]]:
    """Returns the lifts by the rarest word of their topic, so that a rule is compared with few of them."""
    counts = Counter(word for lift in lifts for word in lift.topic)
    index: dict[str, list[Lift]] = {}
    for lift in lifts:
        if lift.topic:
            index.setdefault(min(lift.topic, key=lambda word: (counts[word], word)), []).append(lift)
    return index


def _find_lift(rule: TextFact, turn: int, index: Mapping[str, Sequence[Lift]]) -> int | None:
    """Returns the first turn after the rule that lifts it; None if none does."""
    here = (turn, rule.chars[0])
    candidates = (lift for word in topic_words(rule.text) for lift in index.get(word, ()))
    found = (lift.turn for lift in candidates if (lift.turn, lift.chars[0]) > here and lift.lifts(rule.text, turn))
    return min(found, default=None)
