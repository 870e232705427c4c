"""The ledger: every fact of a session once, with all its places, and what has become of it since.

A fact is a literal (`gate.atoms`) of a turn's text or of a call's arguments; the same literal in many places is one
fact. It is live as long as one of its places is: a place in an older state of a file or of a command's output is
superseded (`gate.states`). What the user asks or forbids is live until the user lifts it (`gate.lifting`): no tool
result and no assistant can. Knows no model.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby

from holdfast.facts.extract import FactKind, TextFact, extract_facts
from holdfast.facts.lifts import Lift, find_lifts, topic_words
from holdfast.facts.supersession import Supersession, find_supersession
from holdfast.facts.user_words import read_carried_rules
from holdfast.transcript.speaker import extract_own_words, split_voices
from holdfast.transcript.turn import Role, Transcript, Turn

RULE_KINDS = (FactKind.PROHIBITION, FactKind.INSTRUCTION)
"""What only the user can lift."""


@dataclass(frozen=True)
class Occurrence:
    """Where a fact stands."""

    turn: int
    """0-based."""
    part: int
    """0 is the turn's text, n the arguments of its n-th call."""
    fact: TextFact
    """Its characters count in that part."""
    speaker: Role
    superseded_by: int | None = None
    """The turn after which this place no longer tells how things are."""


@dataclass(frozen=True)
class Fact:
    """One literal of a session."""

    kind: FactKind
    text: str
    """As a reader sees it: in arguments, without the escapes of JSON."""
    occurrences: tuple[Occurrence, ...]
    """In the order of the session; at least one."""

    @property
    def live(self) -> tuple[Occurrence, ...]:
        return tuple(place for place in self.occurrences if place.superseded_by is None)

    @property
    def superseded_by(self) -> int | None:
        """The turn that made the last of its places history; None while it is live."""
        if self.live:
            return None
        return max(place.superseded_by for place in self.occurrences if place.superseded_by is not None)

    @property
    def citation(self) -> Occurrence:
        """The one to cite: of the live ones where there are any, the user's first, then the newest."""
        return max(self.live or self.occurrences, key=lambda place: (place.speaker is Role.USER, place.turn))

    @property
    def fact(self) -> TextFact:
        return self.citation.fact

    @property
    def turn(self) -> int:
        return self.citation.turn

    @property
    def chars(self) -> tuple[int, int]:
        return self.citation.fact.chars

    @property
    def speaker(self) -> Role:
        return self.citation.speaker


@dataclass(frozen=True)
class SessionFacts:
    """The facts of a session, by their first place."""

    facts: tuple[Fact, ...]
    written: frozenset[str] = frozenset()
    """Paths that the agent wrote."""

    @property
    def live(self) -> tuple[Fact, ...]:
        return tuple(fact for fact in self.facts if fact.superseded_by is None)


def collect_facts(transcript: Transcript) -> SessionFacts:
    """The facts of a session. Linear in its length."""
    turns = transcript.turns
    states = find_supersession(turns)
    lifted = find_lifts([(at, said) for at, turn in enumerate(turns) if (said := extract_own_words(turn))])
    of_turn = {at: list(group) for at, group in groupby(lifted, key=lambda lift: lift.turn)}
    by_word = _by_rarest_word(lifted)
    found: dict[tuple[FactKind, str], list[Occurrence]] = {}
    for at, turn in enumerate(turns):
        for part, who, atom in _of_turn(turn, of_turn.get(at, ())):
            shown = _shown(atom.text) if part else atom.text
            by = _lifted_by(atom, at, by_word) if atom.kind in RULE_KINDS else _superseded_by(states, at, part, atom)
            found.setdefault((atom.kind, shown), []).append(Occurrence(at, part, atom, who, by))
    facts = tuple(Fact(kind, text, tuple(places)) for (kind, text), places in found.items())
    return SessionFacts(facts, states.written)


def _of_turn(turn: Turn, lifted: Sequence[Lift]) -> Iterator[tuple[int, Role, TextFact]]:
    """The atoms of a turn, each with its part and speaker. A sentence that lifts a rule is a rule itself: it must
    survive too."""
    yield from ((0, Role.USER, atom) for atom in read_carried_rules(turn))
    known = set()
    for voice in split_voices(turn):
        for found in _atoms(voice.text, voice.speaker):
            atom = found.shift(voice.start)
            known.add(atom.chars)
            yield 0, voice.speaker, atom
    rest = [lift.chars for lift in lifted if lift.chars not in known]
    yield from ((0, Role.USER, TextFact(FactKind.INSTRUCTION, turn.text[slice(*chars)], chars)) for chars in rest)
    for part, call in enumerate(turn.calls, 1):
        yield from ((part, turn.role, atom) for atom in _atoms(call.arguments, turn.role))


@lru_cache(maxsize=1 << 13)
def _atoms(text: str, who: Role) -> tuple[TextFact, ...]:
    """A session is read again at every round, and most of it has not changed."""
    return extract_facts(text, who) if text else ()


def _shown(text: str) -> str:
    """A piece of JSON without its escapes, where that is one line."""
    if "\\" not in text:
        return text
    try:
        plain = json.loads(f'"{text}"')
    except ValueError:
        return text
    return plain if isinstance(plain, str) and plain.isprintable() else text


def _by_rarest_word(lifted: Sequence[Lift]) -> dict[str, list[Lift]]:
    """The lifts that a rule with this word may meet; each under one of its words, so that no rule is held to all."""
    often = Counter(word for lift in lifted for word in lift.about)
    found: dict[str, list[Lift]] = {}
    for lift in lifted:
        if lift.about:
            found.setdefault(min(lift.about, key=lambda word: (often[word], word)), []).append(lift)
    return found


def _lifted_by(atom: TextFact, turn: int, lifted: Mapping[str, Sequence[Lift]]) -> int | None:
    here = (turn, atom.chars[0])
    met = (lift for word in topic_words(atom.text) for lift in lifted.get(word, ()))
    found = (lift.turn for lift in met if (lift.turn, lift.chars[0]) > here and lift.lifts(atom.text, turn))
    return min(found, default=None)


def _superseded_by(states: Supersession, turn: int, part: int, atom: TextFact) -> int | None:
    whole = states.parts.get((turn, part))
    return whole if whole is not None else states.by(turn, part, atom)
