"""The words around a literal of the facts section: a bare number says nothing of what it counts.

They are written as far as a small share of the budget goes, so that no fact stays away for them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from holdfast.facts.fact import Fact, FactKind
from holdfast.transcript.draft import Count
from holdfast.transcript.speaker import is_made, split_voices
from holdfast.transcript.turn import Role, Turn

KINDS = (FactKind.NUMBER, FactKind.VERSION, FactKind.HASH, FactKind.URL)
"""Kinds whose literals do not say by themselves what they are; names and paths do."""
BEFORE, BEHIND = 6, 3
"""Words that are written before and behind a literal."""
LONGEST = 80
"""Characters of the words on one side."""
_LISTED = re.compile(r"- (?:data:|user's) [a-z]+: ")
_NUMBER = re.compile(r"\d+")


def add_words(chosen: Sequence[Fact], turns: Sequence[Turn], most: int, count: Count) -> list[Fact]:
    """Returns the facts, those of `KINDS` with the words around them, for at most about `most` tokens in all.

    The user's come first, then those of lines with few other numbers, then the newest.
    """
    wider = dict(_widen(chosen, turns))
    result = list(chosen)
    for at in sorted(wider, key=lambda at: _rank(chosen[at], turns)):
        cost = count(f" | {wider[at]}") - count(chosen[at].text)
        if cost <= most:
            most -= cost
            result[at] = replace(chosen[at], text=wider[at])
    return result


def _widen(chosen: Sequence[Fact], turns: Sequence[Turn]) -> Iterator[tuple[int, str]]:
    """Yields the position of each fact that has words around it, and its text with them."""
    for at, fact in enumerate(chosen):
        if fact.kind in KINDS and (line := _line_of(fact, turns)):
            before, behind = line
            left = " ".join(before.split()[-BEFORE:])[-LONGEST:]
            right = " ".join(behind.split()[:BEHIND])[:LONGEST]
            words = "".join((*_gap(left, before[-1:]), fact.text, *reversed(_gap(right, behind[:1]))))
            if sum(map(str.isalpha, left + right)) > 2:
                yield at, words


def _gap(words: str, edge: str) -> tuple[str, str]:
    """Returns words, and the space that stood between them and the literal."""
    return words, " " if words and edge.isspace() else ""


def _line_of(fact: Fact, turns: Sequence[Turn]) -> tuple[str, str] | None:
    """Returns what stands before and behind a fact on its line; None for a fact of a call's arguments."""
    place = fact.citation
    if place.part or place.turn >= len(turns):
        return None
    turn, (start, end) = turns[place.turn], fact.chars
    stop = turn.text.find("\n", end)
    before = turn.text[turn.text.rfind("\n", 0, start) + 1 : start]
    behind = turn.text[end : len(turn.text) if stop < 0 else stop]
    if not any(is_made(voice) and voice.start <= start < voice.start + len(voice.text) for voice in split_voices(turn)):
        return before, behind
    listed = _LISTED.match(before)  # of a section: the words that stand there already; other words of ours are none
    return (before[listed.end() :].rpartition(" | ")[2], behind.partition(" | ")[0]) if listed else None


def _rank(fact: Fact, turns: Sequence[Turn]) -> tuple[bool, int, int]:
    line = _line_of(fact, turns) or ("", "")
    return fact.speaker is not Role.USER, len(_NUMBER.findall(f"{line[0]} {line[1]}")), -fact.turn
