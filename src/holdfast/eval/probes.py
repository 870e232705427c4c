"""Questions about a session, and the three rules that make one a fair test of compaction.

(a) The answer stands in the compacted span and nowhere in what stays verbatim; (b) a model without the span gets
it wrong; (c) a specific near miss exists. Rules (a) and (c) are checked here, (b) where the model is at hand.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from holdfast.errors import BadInput
from holdfast.eval.metrics import keyword_hit


class Probe(BaseModel):
    """One question with its right answer and the default that a model guesses without the session."""

    model_config = ConfigDict(extra="ignore", frozen=True, use_attribute_docstrings=True)

    transcript: str
    """File name of the session that it asks about."""
    id: str
    category: str
    """recall, decision, artifact or continuation."""
    question: str = Field(min_length=1)
    answer: str = Field(min_length=1)
    accept: list[str] = Field(min_length=1)
    """Keywords, any of which a right answer contains."""
    distractor: str
    """The near miss."""
    evidence: str
    """A verbatim quote of the session that holds the answer."""
    answer_literal: str = ""
    """The text that must not stand outside the span; the answer where it is empty."""

    @property
    def digest(self) -> str:
        """Identifies what is asked and how it is judged."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:16]

    @property
    def literal(self) -> str:
        return self.answer_literal or self.answer


def read_probes(path: str | Path) -> list[Probe]:
    """Read probes, one JSON object a line. Raises BadInput with the line that is not one."""
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"cannot read probes from {path}: {error}") from error
    probes = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            probes.append(Probe.model_validate(json.loads(line)))
        except (ValueError, ValidationError, RecursionError) as error:
            first = str(error).splitlines()
            raise BadInput(f"{path}:{number}: not a probe ({'; '.join(first[:3])})") from error
    if not probes:
        raise BadInput(f"{path} holds no probes")
    if twice := [key for key, n in Counter((p.transcript, p.id) for p in probes).items() if n > 1]:
        raise BadInput(f"{path}: two probes of {twice[0][0]} are called {twice[0][1]!r}; give each an id of its own")
    return probes


def broken_rule(probe: Probe, verbatim: str) -> str:
    """Which static rule `probe` breaks when `verbatim` is the text that stays, or an empty string."""
    if _folded(probe.literal) in _folded(verbatim):
        return f"rule (a): {probe.literal!r} also stands in what stays verbatim"
    if keyword_hit(verbatim, probe.accept):
        return f"rule (a): one of {probe.accept!r} also stands in what stays verbatim"
    if _folded(probe.literal) not in _folded(probe.evidence):
        return f"rule (a): {probe.literal!r} does not stand in its evidence"
    if keyword_hit(probe.question, probe.accept):
        return "rule (a): the question holds the answer"
    near = _folded(probe.distractor)
    if near in ("", _folded(probe.answer)) or keyword_hit(probe.distractor, probe.accept):
        return f"rule (c): {probe.distractor!r} is no near miss of {probe.answer!r}"
    return ""


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())


def known_without(probe: Probe, answer: str) -> str:
    """Rule (b), given the greedy answer of the model that did not see the span; an empty string where it holds."""
    if keyword_hit(answer, probe.accept):
        return f"rule (b): the model answers {answer.strip()[:60]!r} without the span"
    return ""
