"""The metrics of the scores, as pure functions on arrays with one entry per probe (or per window).

Knows no rows, no models and no files. Intervals are percentile bootstraps over clusters: entries that share a
cluster (the probes of one window share one compaction) err together, so they are drawn together.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]


class RetainedShare(NamedTuple):
    """A share of information; where `value` is nan, `reason` says why."""

    value: float
    reason: str = ""


class Interval(NamedTuple):
    """The bounds of a bootstrap interval; both nan where there is none."""

    low: float
    high: float


NO_INTERVAL = Interval(float("nan"), float("nan"))


def retained_share(compact: Floats, none: Floats, full: Floats) -> RetainedShare:
    """Returns the share of the nats, which the full context supplies over none, that the compact one still supplies."""
    if not len(full):
        return RetainedShare(float("nan"), "nothing was measured")
    supplied = float(np.sum(full - none))
    if supplied <= 0:
        return RetainedShare(float("nan"), f"the full context supplies no information here ({supplied:.3g} nats)")
    return RetainedShare(float(np.sum(compact - none)) / supplied)


def margins(answer: Floats, distractor: Floats, answer_none: Floats, distractor_none: Floats) -> Floats:
    """Computes by how many nats per token the answer beats the distractor, less the same without context.

    All four are log-probabilities per token; the subtraction removes what the model would guess anyway.
    """
    return (answer - distractor) - (answer_none - distractor_none)


def choose_answer(calibrated: Floats) -> Floats:
    """Returns 1 for each probe on which the context moves the model towards the answer, else 0."""
    return (calibrated > 0).astype(np.float64)


def ratio_interval(
    top: Floats, bottom: Floats, clusters: Indices, *, resamples: int = 2000, seed: int = 0, level: float = 0.95
) -> Interval:
    """Computes the percentile interval of sum(top) / sum(bottom) under resampling of whole clusters (numbered from 0).

    A mean is the ratio whose bottom is all ones. One cluster alone shows no spread, so it has no interval.
    Resamples on which the ratio is undefined (a bottom of 0 or less) are left out, and where they are the
    majority there is no interval either. Equal arguments give equal intervals.
    """
    tops, bottoms = (np.bincount(clusters, weights=part) for part in (top, bottom))
    if len(tops) < 2:
        return NO_INTERVAL
    drawn = np.random.default_rng(seed).integers(0, len(tops), size=(resamples, len(tops)))
    above, below = tops[drawn].sum(axis=-1), bottoms[drawn].sum(axis=-1)
    defined = below > 0
    if defined.sum() * 2 <= resamples:
        return NO_INTERVAL
    low, high = np.quantile(above[defined] / below[defined], [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


def exact_match(text: str, answer: str) -> bool:
    """Returns True if both are the same words, except for case, articles and punctuation around words (as in SQuAD)."""
    return _words(text) == _words(answer)


def f1(text: str, answer: str) -> float:
    """Returns the harmonic mean of precision and recall of the answer's words (as in SQuAD), 0 to 1."""
    said, right = Counter(_words(text)), Counter(_words(answer))
    common = (said & right).total()
    return 2 * common / (said.total() + right.total()) if common else 0.0


def token_f1(text: str, reference: str) -> float:
    """Returns the harmonic mean of precision and recall of the reference's words and signs, 0 to 1; case counts."""
    said, right = (Counter(re.findall(r"\w+|[^\w\s]", side)) for side in (text, reference))
    total = said.total() + right.total()
    return 2 * (said & right).total() / total if total else 1.0


def _words(text: str) -> list[str]:
    words = (word.strip(".,;:!?\"'`()[]{}") for word in text.casefold().split())
    return [word for word in words if word not in ("", "a", "an", "the")]


def keyword_hit(text: str, accept: Iterable[str]) -> bool:
    """Returns True if an accepted keyword stands in the text, in any case and white space.

    Words match as substrings (`integer` in "integers"), except very short ones, which would hit by chance
    (`Low` in "allow"). A number at either end of a keyword must be a whole token: `44` is in "44 files." and
    "(44)", not in "441", "1.44", "44.1", "-44" or "x44"; `a.py:93` is not in "a.py:931".
    """
    folded = _fold(text)
    return any(re.search(_pattern(folded_keyword), folded) for folded_keyword in map(_fold, accept) if folded_keyword)


_STARTS_WITH_NUMBER = re.compile(r"\d[\d.,]*+(?![^\W_])")
_ENDS_WITH_NUMBER = re.compile(r"(?<![^\W_])(?<![\d.,])\d[\d.,]*(?<=\d)\Z")
_NOT_IN_NUMBER_BEFORE = r"(?<!\d,)(?<!\s-)(?<!\A-)"
_NOT_IN_NUMBER_AFTER = r"(?!\w)(?![.,]\d)"
_SHORT_WORD = 3
"""Up to this many letters a word must stand alone."""


def _fold(text: str) -> str:
    return " ".join(text.casefold().split())


def _pattern(keyword: str) -> str:
    if keyword.isalpha() and len(keyword) <= _SHORT_WORD:
        return rf"(?<!\w){re.escape(keyword)}(?!\w)"
    # A digit inside a longer word (a hash, `utf8`) is no number: `5b6a052` may go on in the full hash.
    before = _before_number(keyword) if _STARTS_WITH_NUMBER.match(keyword) else ""
    after = _NOT_IN_NUMBER_AFTER if _ENDS_WITH_NUMBER.search(keyword) else ""
    return before + re.escape(keyword) + after


def _before_number(keyword: str) -> str:
    # `11.4.0` is also right as `v11.4.0`
    alone = r"(?:(?<![\w.])|(?<=\bv))" if "." in keyword else r"(?<![\w.])"
    return alone + _NOT_IN_NUMBER_BEFORE
