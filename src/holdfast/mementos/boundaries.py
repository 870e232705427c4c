"""Scores of boundaries between units, 0 (never) to 3 (a step ends here): by a model in windows, or by code alone."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from holdfast.engine.chat import Chat
from holdfast.errors import Failed
from holdfast.mementos.traces import Trace
from holdfast.transcript.outcomes import reports_failure
from holdfast.transcript.turn import Role

HIGHEST = 3.0
_WORD = re.compile(r"[^\W\d_]{3,}|\d+")
_MID_STEP = re.compile(r"[:=,]\s*\Z")
_CONCLUDES = re.compile(r"\s*(?:so|thus|therefore|hence|then|which|that)\b", re.IGNORECASE)
_TURNS = re.compile(
    r"\s*(?:now|next|first|second|finally|okay|alternatively|wait|let me|let's|step \d|moving on)\b", re.IGNORECASE
)


class Scorer(Protocol):
    """Scores the boundaries of a trace."""

    @property
    def name(self) -> str: ...

    def score(self, trace: Trace) -> list[float]:
        """Returns a score from 0 to 3 for each boundary, one fewer than there are units."""


@dataclass(frozen=True)
class CodeScorer:
    """Scores by code: the turn of talk, the change of words, and how surprising the next unit's words are."""

    name: ClassVar[str] = "code"
    reach: int = 4
    """Units on each side whose words are compared."""

    def score(self, trace: Trace) -> list[float]:
        bags = [Counter(_WORD.findall(unit.lower())) for unit in trace.units]
        seen: Counter[str] = Counter()
        scores = []
        for at in range(1, len(bags)):
            seen.update(bags[at - 1])
            before = sum(bags[max(0, at - self.reach) : at], Counter[str]())
            after = sum(bags[at : at + self.reach], Counter[str]())
            change = 1 - _cosine(before, after)
            score = change + 0.5 * _surprise(bags[at], seen) + self._talk(trace, at)
            scores.append(round(min(HIGHEST, max(0.0, score)), 3))
        return scores

    def _talk(self, trace: Trace, at: int) -> float:
        """Returns what the course of the talk says of the boundary before unit `at`."""
        if trace.turns:
            opens, closes = trace.turns[at][0], trace.turns[at - 1]
            failed = any(turn.role is Role.TOOL and (turn.is_error or reports_failure(turn.text)) for turn in closes)
            return 1.5 * (opens.role is Role.USER) - 0.5 * failed + 0.5 * bool(opens.text.strip() and opens.calls)
        before, after = trace.units[at - 1], trace.units[at]
        if _MID_STEP.search(before.rstrip()) or _CONCLUDES.match(after):
            return -HIGHEST
        return 0.5 * before.endswith("\n\n") + 1.0 * bool(_TURNS.match(after))


SYSTEM = (
    "You judge where a line of work may be cut into blocks. You answer with JSON only: a list with one number from 0 "
    "to 3 for every boundary asked about, in order."
)
_RUBRIC = """Score each boundary between neighbouring pieces of this work.
3: a step is finished and another goal begins. 2: a clear change. 1: a small change. 0: the thought goes on.
Always 0: after ":" or "="; inside a derivation, a trace of code or a proof by contradiction; where the next piece
begins with "so", "thus" or "therefore"; behind a short set-up.

{pieces}

There are {count} boundaries: {names}. Answer with a JSON list of {count} numbers.
"""
_LIST = re.compile(r"\[[^\[\]]*\]")


@dataclass(frozen=True)
class ModelScorer:
    """Scores by a model, in windows that overlap by one unit; passes with windows of several sizes are averaged."""

    chat: Chat
    windows: tuple[int, ...] = (16, 11)
    """Boundaries asked about at once; a pass each. Coprime, so that no boundary is at an edge twice."""
    tries: int = 5
    shown: int = 600
    """Characters of a unit that the model sees; of a longer one its two ends."""
    timeout: float = 120.0

    @property
    def name(self) -> str:
        return f"model {self.chat.name}"

    def score(self, trace: Trace) -> list[float]:
        """Raises Failed if no window of a pass is answered; one that is not gets zeros, as published."""
        passes = [self._pass(trace.units, size) for size in self.windows]
        return [round(sum(row) / len(row), 3) for row in zip(*passes, strict=True)]

    def _pass(self, units: Sequence[str], size: int) -> list[float]:
        scores: list[float] = []
        answered = False
        for first in range(0, len(units) - 1, size):
            part = units[first : first + size + 1]
            found = self._ask(part)
            answered |= found is not None
            scores += found or [0.0] * (len(part) - 1)
        if scores and not answered:
            raise Failed(
                f"{self.chat.name} scored no window of {len(scores)} boundaries; choose a model that gives JSON"
            )
        return scores

    def _ask(self, part: Sequence[str]) -> list[float] | None:
        """Returns the scores of a window, or None if the model does not give them in so many tries."""
        pieces = "\n".join(f"--- piece {n} ---\n{_ends(unit, self.shown)}" for n, unit in enumerate(part, 1))
        count = len(part) - 1
        names = ", ".join(f"{n}|{n + 1}" for n in range(1, count + 1))
        prompt = _RUBRIC.format(pieces=pieces, count=count, names=names)
        for _ in range(self.tries):
            reply = self.chat(SYSTEM, prompt, 8 * count + 60, self.timeout).text
            if (found := _read_scores(reply, count)) is not None:
                return found
            prompt = f"{prompt}\nThe last answer was no JSON list of {count} numbers. Give only that list.\n"
        return None


def _read_scores(reply: str, count: int) -> list[float] | None:
    for match in _LIST.finditer(reply):
        try:
            row = json.loads(match.group())
        except ValueError:
            continue
        if len(row) == count and all(isinstance(x, int | float) and math.isfinite(x) for x in row):
            return [min(HIGHEST, max(0.0, float(x))) for x in row]
    return None


def _ends(text: str, most: int) -> str:
    half = most // 2
    return text if len(text) <= most else f"{text[:half]}\n[…]\n{text[-half:]}"


def _cosine(one: Counter[str], other: Counter[str]) -> float:
    dot = sum(count * other[word] for word, count in one.items())
    norms = math.sqrt(sum(c * c for c in one.values())) * math.sqrt(sum(c * c for c in other.values()))
    return dot / norms if norms else 0.0


def _surprise(bag: Counter[str], seen: Counter[str]) -> float:
    """Returns the share of a unit's words that did not stand before it."""
    return sum(word not in seen for word in bag) / len(bag) if bag else 0.0
