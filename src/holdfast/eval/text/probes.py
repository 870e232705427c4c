"""Questions about a session in four categories, made from its own lines: no model is asked.

A probe is a line with one literal left out. Its answer stands in turns that a compaction may touch and nowhere in what
stays; its distractor is another literal of the same kind from the same session.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from random import Random
from zlib import crc32

from holdfast.eval.probes import Probe, check_static_rules
from holdfast.facts.extract import extract_facts
from holdfast.facts.fact import FactKind, TextFact
from holdfast.transcript.draft import free_pieces, new_draft
from holdfast.transcript.turn import Role, Transcript, Turn

CATEGORIES = ("recall", "decision", "artifact", "continuation")
"""Factual recall, decision tracking, artifact management, logical continuation."""

BLANK = "____"
LONGEST = 240
"""Characters of a line that is asked about."""
NEWEST = 0.15
"""Share of the turns, the newest of those that may be touched, from which work goes on."""

_LITERALS = {
    FactKind.NUMBER,
    FactKind.VERSION,
    FactKind.IDENTIFIER,
    FactKind.HASH,
    FactKind.URL,
    FactKind.PATH,
}
_DECIDES = re.compile(
    r"\b(?:instead|because|since|decid\w+|chos\w+|choose|prefer\w*|use|using|switch\w*|should|must|never|don'?t|rather|"
    r"so that|fix\w*|need\w*|let'?s|let me|I'll|I will)\b",
    re.IGNORECASE,
)


class TextProbe(Probe):
    """A probe that knows its turn."""

    turn: int
    """0-based raw turn that holds the evidence."""
    session: str = ""
    """Digest of the session's file, where a model wrote the probe and it was stored."""


@dataclass(frozen=True)
class Candidate:
    """A literal in a line of a turn."""

    turn: int
    role: Role
    fact: TextFact
    line: str
    place: tuple[int, int]
    """Of the literal in the line."""


def make_cloze_probes(transcript: Transcript, name: str, each: int, keep_recent: int, seed: int = 0) -> list[TextProbe]:
    """Makes up to `each` probes of every category about the turns that a compaction may touch, equal
    for equal seeds.
    """
    touched = free_pieces(new_draft(transcript), keep_recent)
    found = [item for at in touched for item in _find_candidates(at, transcript.turns[at])]
    verbatim = untouched_text(transcript, keep_recent)
    probes = []
    for category in CATEGORIES:
        fitting = [item for item in found if category in _categories(item, touched)]
        Random(seed + crc32(f"{name} {category}".encode())).shuffle(fitting)
        probes += _make_probes(fitting, found, category, name, verbatim)[:each] if each else []
    return probes


def untouched_text(transcript: Transcript, keep_recent: int) -> str:
    """Returns the text of every turn that no compaction touches."""
    touched = set(free_pieces(new_draft(transcript), keep_recent))
    return "\n".join(turn_text(turn) for at, turn in enumerate(transcript.turns) if at not in touched)


def turn_text(turn: Turn) -> str:
    """Returns all text of a turn."""
    return "\n".join(part for part in (turn.text, turn.reasoning, *(call.arguments for call in turn.calls)) if part)


def _find_candidates(at: int, turn: Turn) -> Iterator[Candidate]:
    for atom in extract_facts(turn.text, turn.role):
        start = turn.text.rfind("\n", 0, atom.chars[0]) + 1
        end = turn.text.find("\n", atom.chars[1])
        line = turn.text[start : end if end >= 0 else None]
        other = line.replace(atom.text, "")
        if len(line) <= LONGEST and atom.kind in _LITERALS and len(re.findall(r"[^\W\d]{3,}", other)) >= 3:
            yield Candidate(at, turn.role, atom, line, (atom.chars[0] - start, atom.chars[1] - start))


def _categories(item: Candidate, touched: Sequence[int]) -> Iterator[str]:
    if item.turn >= touched[int(len(touched) * (1 - NEWEST))]:
        yield "continuation"
    elif item.fact.kind is FactKind.PATH:
        yield "artifact"
    elif item.role in (Role.USER, Role.ASSISTANT) and _DECIDES.search(item.line):
        yield "decision"
    else:
        yield "recall"


def _make_probes(
    fitting: Sequence[Candidate], found: Sequence[Candidate], category: str, name: str, verbatim: str
) -> list[TextProbe]:
    """Makes a probe of every literal that gives a fair one; no literal is asked for twice."""
    probes: dict[str, TextProbe] = {}
    for item in fitting:
        if item.fact.text in probes or len(probes) >= _MOST:
            continue
        probe = _probe(item, found, category, name)
        if probe and not check_static_rules(probe, verbatim):
            probes[item.fact.text] = probe
    return list(probes.values())


_MOST = 100
"""Probes of one category and session: enough for any run."""


def _probe(item: Candidate, found: Sequence[Candidate], category: str, name: str) -> TextProbe | None:
    answer = item.fact.text
    others = {other.fact.text for other in found if other.fact.kind is item.fact.kind} - {answer}
    near = sorted(other for other in others if answer not in other and other not in answer)
    if not near:
        return None
    blanked = item.line.replace(answer, BLANK).strip()
    return TextProbe(
        transcript=name,
        id=f"{category}-{item.turn + 1}-{crc32(blanked.encode()):08x}",
        category=category,
        question=f"Which {item.fact.kind} stood in the place of {BLANK} in this line of the session? {blanked}",
        answer=answer,
        accept=[answer],
        distractor=max(near, key=lambda other: (SequenceMatcher(None, answer, other).ratio(), other)),
        evidence=item.line,
        turn=item.turn,
    )
