"""Collects every fact of a session once, with all its occurrences and the turn that ended it.

The same text of the same kind is one fact, in however many places it stands. It is live as long as one occurrence is:
an occurrence in an older state of a file or of a command's output is superseded (`supersession`). A rule is live until
the user lifts it (`lifts`): no tool result and no assistant can. No model is asked.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import groupby

from holdfast.facts.extract import extract_facts
from holdfast.facts.fact import Fact, FactKind, Occurrence, TextFact
from holdfast.facts.handles import find_handles
from holdfast.facts.lifts import Lift, find_lifts, topic_words
from holdfast.facts.passages import SENTENCE, trim_span
from holdfast.facts.prohibitions import LIFTABLE_KINDS, LONGEST_RULE, RULE_KINDS, find_rules
from holdfast.facts.supersession import find_supersession
from holdfast.facts.user_words import read_carried_facts
from holdfast.transcript.activity import Activity, find_activity
from holdfast.transcript.injections import Owner
from holdfast.transcript.speaker import extract_own_words, split_voices
from holdfast.transcript.task import find_task
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
    by_word, task = _index_lifts(lifts), find_task(turns)
    places: dict[tuple[FactKind, str], list[Occurrence]] = {}
    for at, turn in enumerate(turns):
        for part, speaker, fact in _facts_of_turn(turn, of_turn.get(at, ())):
            text = _without_json_escapes(fact.text) if part else fact.text
            if fact.kind is FactKind.TASK:
                end = task if task is not None and task > at else None
            else:
                end = _find_lift(fact, at, by_word) if fact.kind in LIFTABLE_KINDS else stale.find(at, part, fact)
            places.setdefault((fact.kind, text), []).append(Occurrence(at, part, fact, speaker, end))
    for handle in find_handles(turns):
        fact = TextFact(FactKind.HANDLE, handle.text, (0, len(turns[handle.turn].text)))
        place = Occurrence(handle.turn, 0, fact, Role.TOOL, handle.ended)
        places.setdefault((FactKind.HANDLE, handle.text), []).append(place)
    in_order = sorted(places.items(), key=lambda item: item[1][0].turn)
    facts = tuple(Fact(kind, text, tuple(found)) for (kind, text), found in in_order)
    return SessionFacts(facts, stale.written, activity)


def collect_sentences(turn: Turn, at: int) -> tuple[Fact, ...]:
    """Returns the sentences of the user in turn `at` that are no rules, as facts of the task."""
    own = extract_own_words(turn)
    rules = list(find_rules(own))
    spans = (trim_span(*match.span(), own, LONGEST_RULE) for match in SENTENCE.finditer(own))
    found = {
        own[start:end]: (start, end)
        for start, end in spans
        if re.search(r"\w{2}", own[start:end]) and not any(rule.start <= start < rule.end for rule in rules)
    }
    facts = ((text, TextFact(FactKind.TASK, text, chars)) for text, chars in found.items())
    return tuple(Fact(FactKind.TASK, text, (Occurrence(at, 0, fact, Role.USER),)) for text, fact in facts)


def _facts_of_turn(turn: Turn, lifts: Sequence[Lift]) -> Iterator[tuple[int, Role, TextFact]]:
    """Yields the facts of a turn, each with its part and speaker.

    A sentence that lifts a rule is a rule itself, because it must survive too.
    """
    # a handle that was carried over may have died since: `handles` reads it
    yield from ((0, who, fact) for who, fact in read_carried_facts(turn) if fact.kind is not FactKind.HANDLE)
    spans = set()
    for voice in split_voices(turn):
        rules = voice.owner is Owner.RULES
        for found in _extract_facts(voice.text, Role.USER if rules else voice.speaker):
            fact = found.shift(voice.start)
            if rules and fact.kind in RULE_KINDS:
                fact = replace(fact, kind=FactKind.PROJECT_RULE, source=voice.source)
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
