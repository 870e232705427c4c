"""A model's opinion of what was built, beside the checks and never in their place: three scores of several samples.

The judge sees the instruction and the whole files; a program that does not fit is not judged in part.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

from holdfast.bench.tasks.catalog import Task
from holdfast.engine.chat import Chat
from holdfast.errors import BadOption, Failed

SCORES = ("completeness", "correctness", "adherence")
SAMPLES = 3
TOKENS, SECONDS = 300, 300.0
_SYSTEM = "You judge code that was written for a task. You answer with one JSON object and nothing else."
_ANCHORS = (
    "Score from 1 to 5:\n"
    "completeness: 1 nothing of the task is there, 3 half of its points, 5 every point.\n"
    "correctness: 1 it does not run, 3 it runs and one point is wrong, 5 no fault that you can name.\n"
    "adherence: 1 it does what the task forbids, 3 one name, code or library differs, 5 to the letter.\n"
    'Answer as {"completeness": N, "correctness": N, "adherence": N, "fault": "the worst fault, or none"}.'
)


@dataclass(frozen=True)
class Opinion:
    """The judge's scores of one task."""

    task: str
    samples: tuple[Mapping[str, int], ...]
    """Scores of 1 to 5, a mapping a sample; a sample that could not be read is left out."""
    asked: int

    @property
    def scores(self) -> dict[str, float]:
        """Means over the samples; empty if none could be read."""
        return {name: mean(one[name] for one in self.samples) for name in SCORES} if self.samples else {}

    @property
    def agreement(self) -> float | None:
        """The share of pairs of samples whose scores are all the same; None for fewer than two samples."""
        pairs = [(a, b) for at, a in enumerate(self.samples) for b in self.samples[at + 1 :]]
        return mean(float(a == b) for a, b in pairs) if pairs else None


def judge_task(chat: Chat, task: Task, files: Mapping[str, str], samples: int = SAMPLES) -> Opinion:
    """Asks for scores of whole files. Raises BadOption for no sample; an answer that cannot be read is no sample."""
    if samples < 1:
        raise BadOption(f"a judge gives at least 1 sample, got {samples}")
    shown = "\n\n".join(f"=== {path}\n{text}" for path, text in files.items())
    prompt = f"# Task\n{task.instruction}\n# Files\n{shown}\n\n{_ANCHORS}"
    found = []
    for _ in range(samples):
        try:
            found.append(read_scores(chat(_SYSTEM, prompt, TOKENS, SECONDS).text))
        except Failed:
            continue
    return Opinion(task.id, tuple(found), samples)


def read_scores(answer: str) -> dict[str, int]:
    """Returns the scores of an answer. Raises Failed if one is missing or not 1 to 5: it is never guessed."""
    for text in re.findall(r"\{[^{}]*\}", answer):
        try:
            row = json.loads(text)
        except ValueError:
            continue
        if all(type(row.get(name)) is int and 1 <= row[name] <= 5 for name in SCORES):
            return {name: row[name] for name in SCORES}
    raise Failed(f"the judge's answer holds no three scores from 1 to 5: {answer[:80]!r}")


def agreement_with_checks(opinions: Sequence[Opinion], solved: Mapping[str, bool]) -> float | None:
    """Returns the share of tasks on which a mean correctness of at least 4 and the checks say the same."""
    known = [(one.scores["correctness"] >= 4) == solved[one.task] for one in opinions if one.samples]
    return mean(map(float, known)) if known else None
