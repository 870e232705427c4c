"""An index of pages: the lines of a session that answer a query best, by BM25 over passages and then line by line."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from holdfast.errors import Failed
from holdfast.recall.hints import Hints
from holdfast.recall.pages import Page
from holdfast.recall.words import query_words, search_words

Similarity = Callable[[str, Sequence[str]], Sequence[float]]
"""Scores texts by their likeness to a query: `(query, texts) -> scores`, 1 for the same meaning."""


@dataclass(frozen=True)
class Weights:
    """The weights of what speaks for a line, found with benchmarks/reach.py."""

    passage: int = 300
    """Characters of a passage, about; it ends with a line."""
    candidates: int = 40
    """Passages whose lines are compared."""
    share: float = 1.0
    """Of the BM25 score of its passage, beside the best passage's."""
    own: float = 1.0
    """Of the words of the query in the line itself."""
    near: float = 0.3
    """Of those in the line before or behind."""
    about: float = 0.4
    """Of those in the call that the page answers."""
    form: float = 0.45
    """Of a literal of the form that the query asks for."""
    speaker: float = 0.4
    """Of the speaker that the query asks for."""
    call: float = 0.25
    """Against the lines of a call, which the head of its result repeats."""
    echo: float = 0.6
    """Against a line that says nothing beside the query: the question itself, asked before."""
    meaning: float = 0.6
    """Of the similarity of meaning, where there is a model for it."""


@dataclass(frozen=True)
class Passage:
    """Consecutive lines of a page."""

    page: int
    first: int
    last: int


@dataclass(frozen=True)
class Hit:
    """A line that answers a query, and how well."""

    page: int
    line: int
    score: float


class Index:
    """Pages by their words. Raises Failed if bm25s is not installed."""

    def __init__(
        self, pages: Sequence[Page], weights: Weights | None = None, meaning: Similarity | None = None
    ) -> None:
        self.pages, self.weights, self._meaning = tuple(pages), weights or Weights(), meaning
        self._lines = [[frozenset(search_words(page.slice(at, at))) for at in range(page.lines)] for page in self.pages]
        self._about = [search_words(f"{page.about}\n{page.aim}") for page in self.pages]
        self.passages = [
            passage for at, page in enumerate(self.pages) for passage in _cut_passages(at, page, self.weights.passage)
        ]
        words = [self._passage_words(passage) for passage in self.passages]
        self._counts = Counter(word for of_passage in words for word in set(of_passage))
        self._last: tuple[str, range | None, list[Hit]] = ("", None, [])
        self._bm25: Any = None
        if any(words):
            self._bm25 = _bm25s().BM25(method="lucene")
            self._bm25.index(words, show_progress=False)

    def search(self, query: str, within: range | None = None) -> list[Hit]:
        """Returns the lines that answer the query, the best first; none if no word of it is known.

        `within` are the pages that are looked at, counted from 0.
        """
        asked = self._last
        if asked[:2] != (query, within):  # who asks for more asks the same again
            self._last = asked = query, within, self._rank(query, within)
        return asked[2]

    def _rank(self, query: str, within: range | None) -> list[Hit]:
        known = [word for word in query_words(query) if word in self._counts]
        if not known:
            return []
        scores = self._bm25.get_scores(known)
        inside = [
            at for at in range(len(scores)) if scores[at] > 0 and (not within or self.passages[at].page in within)
        ]
        order = sorted(inside, key=lambda at: (-scores[at], -at))[: self.weights.candidates]
        if not order:
            return []
        shares = [self.weights.share * float(scores[at] / scores[order[0]]) for at in order]
        if self._meaning is not None:
            like = self._meaning(query, [self._passage_text(self.passages[at]) for at in order])
            shares = [share + self.weights.meaning * float(score) for share, score in zip(shares, like, strict=True)]
        hits = self._score_lines([self.passages[at] for at in order], shares, query, known)
        return sorted(hits, key=lambda hit: (-hit.score, -hit.page, hit.line))

    def _score_lines(
        self, passages: Sequence[Passage], shares: Sequence[float], query: str, known: Sequence[str]
    ) -> list[Hit]:
        rarity = {word: self._rarity(word) for word in known}
        asked = set(search_words(query))
        whole = sum(rarity.values())
        hints, weights, hits = Hints(query), self.weights, []
        for passage, share in zip(passages, shares, strict=True):
            page, numbers = self.pages[passage.page], range(passage.first, passage.last + 1)
            own = [
                sum(rarity[word] for word in self._lines[passage.page][at] & rarity.keys()) / whole for at in numbers
            ]
            about = sum(rarity[word] for word in rarity.keys() & set(self._about[passage.page])) / whole
            for offset, at in enumerate(numbers):
                near = max([own[k] for k in (offset - 1, offset + 1) if 0 <= k < len(own)], default=0.0)
                score = share + weights.own * own[offset] + weights.near * near + weights.about * about
                score += weights.form * hints.fits_form(page.slice(at, at)) + weights.speaker * hints.fits_speaker(page)
                score -= weights.call * hints.repeats_call(page, at)
                score -= weights.echo * (self._lines[passage.page][at] <= asked)
                hits.append(Hit(passage.page, at, score))
        return hits

    def _rarity(self, word: str) -> float:
        """Returns the weight of a word: the rarer, the heavier."""
        count = self._counts[word]
        return math.log(1 + (len(self.passages) - count + 0.5) / (count + 0.5))

    def _passage_words(self, passage: Passage) -> list[str]:
        page = self.pages[passage.page]
        return [*search_words(page.slice(passage.first, passage.last)), *self._about[passage.page]]

    def _passage_text(self, passage: Passage) -> str:
        page = self.pages[passage.page]
        return f"{page.about}\n{page.slice(passage.first, passage.last)}"


def _cut_passages(at: int, page: Page, size: int) -> list[Passage]:
    """Returns the passages of a page: whole lines, about `size` characters each."""
    passages, first, start = [], 0, 0
    for line, end in enumerate(page.ends):
        if end - start >= size or line == page.lines - 1:
            passages.append(Passage(at, first, line))
            first, start = line + 1, end
    return passages


def _bm25s() -> Any:
    try:
        import bm25s
    except ImportError:
        raise Failed("searching a session needs the package bm25s; install it: pip install 'holdfast[mcp]'") from None
    return bm25s
