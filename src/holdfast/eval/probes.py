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


def read_probes(*paths: str | Path) -> list[Probe]:
    """Reads the probes of files, one JSON object a line. Raises BadInput, which names the line, for anything else."""
    probes = [probe for path in paths for probe in _read_file(Path(path))]
    if twice := [key for key, n in Counter((p.transcript, p.id) for p in probes).items() if n > 1]:
        where = ", ".join(map(str, paths))
        raise BadInput(f"{where}: two probes of {twice[0][0]} are called {twice[0][1]!r}; give each an id of its own")
    return probes


def _read_file(path: Path) -> list[Probe]:
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
    return probes


def check_static_rules(probe: Probe, verbatim: str) -> str:
    """Returns the static rule that `probe` breaks if `verbatim` is the text that stays, or an empty string."""
    if _fold(probe.literal) in _fold(verbatim):
        return f"rule (a): {probe.literal!r} also stands in what stays verbatim"
    if keyword_hit(verbatim, probe.accept):
        return f"rule (a): one of {probe.accept!r} also stands in what stays verbatim"
    if _fold(probe.literal) not in _fold(probe.evidence):
        return f"rule (a): {probe.literal!r} does not stand in its evidence"
    if keyword_hit(probe.question, probe.accept):
        return "rule (a): the question holds the answer"
    near = _fold(probe.distractor)
    if near in ("", _fold(probe.answer)) or keyword_hit(probe.distractor, probe.accept):
        return f"rule (c): {probe.distractor!r} is no near miss of {probe.answer!r}"
    return ""


def _fold(text: str) -> str:
    return " ".join(text.casefold().split())


def check_unknown(probe: Probe, answer: str) -> str:
    """Returns how rule (b) is broken by the greedy answer of a model without the span, or an empty string."""
    if keyword_hit(answer, probe.accept):
        return f"rule (b): the model answers {answer.strip()[:60]!r} without the span"
    return ""
