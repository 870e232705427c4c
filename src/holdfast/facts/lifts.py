"""Finds the sentences that lift a rule, that is, take it back: sentences of the user, and of nobody else.

A sentence lifts a rule only if it says so in one of a few forms and every word of its topic stands in the rule. In
doubt the rule stays.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from holdfast.facts.fact import FactKind
from holdfast.facts.lift_wordings import IDLE, find_topic
from holdfast.facts.passages import SENTENCE
from holdfast.facts.prohibitions import find_rules, negates
from holdfast.facts.word_lists import words_of

_LIFTS = re.compile(
    r"""^\W*+(?:(?:ok(?:ay)?|yes|right|fine|good|now|so|well|and|but|then),?[ ])*+(?:
        (?:you|we)[ ]may[ ](?!not\b)(?:now[ ]|again[ ])?
        |(?:you|we)[ ]can[ ](?:now[ ]|again[ ]|(?=[^\n]*[ ](?:now|again)\W*$))
        |from[ ]now[ ]on,?[ ](?:you|we)[ ](?:may|can)[ ](?!not\b)
        |(?:you|we)[ ]are[ ](?:now[ ])?(?:allowed|free)[ ]to[ ]
        |(?:you|we)(?:[ ]no[ ]longer|[ ]do[ ]?n['\u2019o]t)[ ](?:need|have)[ ]to[ ](?:avoid[ ])
        |(?:it[ ]is|it['\u2019]s)[ ](?:now[ ])?(?:fine|ok(?:ay)?|allowed)[ ](?:now[ ])?to[ ](?:now[ ])?
        |(?:please[ ])?(?:forget|ignore|disregard|scratch|drop)[ ]
            (?:what[ ]I[ ](?:said|told[ ]you|wrote|asked)|my[ ](?:rule|request|instruction|ban)s?)
            (?:[ ](?:before|earlier))?[ ](?:about|on|regarding|against)[ ]
        |never[ ]?mind[ ](?:what[ ]I[ ]said[ ]about[ ]|about[ ]|the[ ])
        |actually,?[ ](?:do[ ]|go[ ]ahead[ ]and[ ]|please[ ]do[ ]|you[ ](?:may|can)[ ])
        |I[ ](?:take[ ]back|lift)[ ](?:what[ ]I[ ]said[ ]about[ ]|the[ ](?:rule|ban)[ ](?:about|on|against)[ ])
    )(?P<topic>\S[^\n]*)""",
    re.VERBOSE | re.IGNORECASE,
)
_BARE = re.compile(
    r"^\W*(?:actually,? |oh,? )?(?:never ?mind(?: that)?|scratch that|forget (?:it|that))\W*$", re.IGNORECASE
)
_AFTER = re.compile(r"(?:,|;| because | since | as | if | once | when | but | for now| now\b| again\b)")
_NARROWS = re.compile(r"\b(?:only|except|unless)\b", re.IGNORECASE)
_WIDE = re.compile(r"[\u3040-\u30ff\u4e00-\u9fff]")
_HANGUL, _CYRILLIC = re.compile(r"[\uac00-\ud7af]"), re.compile(r"[\u0400-\u04ff]")
_WORD = re.compile(r"[\w./@~-]*\w")
_IDLE = words_of(
    "a an and any anything are as at be by do for from in into is it its me my of on or our please so that the them "
    "this these those to up us we you your never not no don't dont must should may can only always also all again now"
)


def _cut_ending(word: str) -> str:
    """Cuts the ending, so that `using` and `use`, `pushes` and `push` are alike."""
    for ending in ("ing", "ed", "es", "s", "e"):
        if word.endswith(ending) and len(word) - len(ending) > 1:
            word = word.removesuffix(ending)
            break
    return word[:-1] if word[-2:-1] == word[-1:] else word


_ALIKE = ("touch edit change modify alter update rewrite", "delete remove erase", "run execute call", "add install")
_SAME = {_cut_ending(word): group for group in _ALIKE for word in words_of(group)}


@dataclass(frozen=True)
class Lift:
    """A sentence of the user that takes rules back."""

    turn: int
    chars: tuple[int, int]
    topic: frozenset[str]
    """The words that a rule must have; of a bare `never mind`, those of the one rule before it."""
    since: int = 0
    """The first turn whose rules it can lift."""

    def lifts(self, rule: str, turn: int) -> bool:
        return turn >= self.since and bool(self.topic) and self.topic <= topic_words(rule)


def find_lifts(said: Sequence[tuple[int, str]]) -> tuple[Lift, ...]:
    """Returns every lift in the user's words `said`, given as `(turn, text)` in order."""
    found: list[Lift] = []
    before: tuple[int, str] | None = None
    for turn, text in said:
        found += [Lift(turn, chars, topic) for chars, topic in _find_in_text(text)]
        first = text.lstrip().partition("\n")[0]
        asked = list(find_rules(before[1])) if before and _BARE.match(first) else []
        if before and len(asked) == 1 and asked[0].kind is FactKind.INSTRUCTION:
            start = text.find(first)
            rule = before[1][asked[0].start : asked[0].end]
            found.append(Lift(turn, (start, start + len(first)), topic_words(rule), before[0]))
        before = turn, text
    return tuple(found)


@lru_cache(maxsize=1 << 14)
def topic_words(text: str) -> frozenset[str]:
    """Returns the words that a rule is about: without idle words, and equal for words that mean the same here.

    Beside each stands how it begins, by which lifts in other languages than English find it.
    """
    return _words(text) | _beginnings(text)


def _words(text: str) -> frozenset[str]:
    found = (part for match in _WORD.finditer(text) for part in _split_wide(match[0].lower()))
    return frozenset(_stem(word) for word in found if word not in _IDLE)


def _beginnings(text: str) -> frozenset[str]:
    """Returns how the words of a sentence begin; a name, and characters without blanks between words, stay whole."""
    found = (part for match in _WORD.finditer(text) for part in _split_wide(match[0].lower()))
    return frozenset(_begin(word) for word in found if word not in IDLE)


def _begin(word: str) -> str:
    if _is_name(word) or _WIDE.search(word):
        return word
    return word[: 2 if _HANGUL.match(word) else 3 if _CYRILLIC.match(word) else 4] + "…"


def _is_name(word: str) -> bool:
    return any(mark in word for mark in "./@~_") or any(map(str.isdigit, word))


def _split_wide(word: str) -> Iterator[str]:
    """Yields a word; of a script without blanks between words, each two characters in a row."""
    wide = _WIDE.search(word) is not None and len(word) > 2
    yield from (word[at : at + 2] for at in range(len(word) - 1)) if wide else (word,)


def _stem(word: str) -> str:
    if _is_name(word):
        return word
    bare = _cut_ending(word)
    return _SAME.get(bare, bare)


def _find_in_text(text: str) -> list[tuple[tuple[int, int], frozenset[str]]]:
    found, fenced = [], False
    for match in SENTENCE.finditer(text):
        sentence = match[0].strip()
        if "```" in sentence:
            fenced = fenced != bool(sentence.count("```") % 2)
        if fenced or sentence.endswith(("?", "？")) or sentence.startswith(">"):
            continue
        if topic := _topic_of(sentence):
            start = match.start() + len(match[0]) - len(match[0].lstrip())
            found.append(((start, start + len(sentence)), topic))
    return found


def _topic_of(sentence: str) -> frozenset[str]:
    """Returns the words that a rule must have for a sentence to lift it; none if it lifts nothing."""
    if lift := _LIFTS.match(sentence):
        topic = _AFTER.split(lift["topic"], maxsplit=1)[0]
        return frozenset() if negates(topic) or _NARROWS.search(topic) else _words(topic)
    other = find_topic(sentence)
    return frozenset() if other is None or negates(other) else _beginnings(other)
