"""Restore: learned tokens read the whole span before it is cut, and are kept beside what another method keeps.

The form of RestoreKV (https://arxiv.org/abs/2608.01247): a selection loses what it drops, and a few tokens that have
read everything can carry some of it. They take their slots from the selection's, so the size is the same. Cost: the
other method's, and one pass of a few tokens with an adapter. Serves every family.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from torch import Tensor

from holdfast.context.budget import Budget
from holdfast.context.segments import Segment
from holdfast.context.surgery import keep_pairs
from holdfast.engine.kv_context import KVContext
from holdfast.engine.local import LocalEngine
from holdfast.methods import eviction
from holdfast.methods.base import Span
from holdfast.methods.eviction import Eviction
from holdfast.methods.inner_methods import build_inner_eviction
from holdfast.methods.method_with_weights import MethodWithWeights
from holdfast.methods.reference_queries import SpanPrefill
from holdfast.methods.state_readers import load_reader
from holdfast.model.states import States
from holdfast.progress import Progress, quiet

SHARE = 4  # of a budget, at most this part goes to restore tokens


class Study(NamedTuple):
    """The selection's study, and the states of the tokens."""

    inner: eviction.Study
    tokens: States

    @property
    def prefill(self) -> SpanPrefill:
        return self.inner.prefill

    @property
    def span(self) -> Span:
        return self.inner.span

    @property
    def scores(self) -> dict[int, Tensor]:
        return self.inner.scores

    def with_scores(self, scores: dict[int, Tensor]) -> Study:
        """Returns the study with other scores."""
        return self._replace(inner=self.inner.with_scores(scores))


@dataclass(frozen=True)
class Restore(MethodWithWeights):
    """Keeps what `select` keeps in fewer slots, and trained tokens that have read all of the span."""

    select: str = "surrogate(otherwise=informed)"
    """The method that keeps the rest."""

    name: ClassVar[str] = "restore"
    by_turn: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        build_inner_eviction(self.name, "select", self.select)

    def study(self, span: Span, past: KVContext, engine: LocalEngine, progress: Progress = quiet) -> Study:
        inner = build_inner_eviction(self.name, "select", self.select)
        reader = load_reader("restore", self.folder, engine.model)
        return study_with(reader, inner, span, past, engine, progress)

    def compress(self, study: Study, budget: Budget, progress: Progress = quiet) -> tuple[Segment, ...]:
        return compress_with(build_inner_eviction(self.name, "select", self.select), study, budget, progress)


def study_with(reader: Any, inner: Eviction, span: Span, past: KVContext, engine: LocalEngine, say: Progress) -> Study:
    """Studies a span with the selection, then lets the tokens read it; gradients go into the tokens."""
    made = inner.study(span, past, engine, say)
    return Study(made, reader.read(made.prefill.after, span.start + len(span)))


def compress_with(inner: Eviction, study: Study, budget: Budget, progress: Progress = quiet) -> tuple[Segment, ...]:
    """Returns what the selection keeps in the slots that the tokens leave, and the tokens."""
    count = min(len(study.tokens.positions), budget.slots // SHARE)
    kept = inner.compress(study.inner, Budget(budget.slots - count), progress)
    if not count:
        return kept
    tokens = study.tokens
    few = States(
        tuple(k[:, -count:] for k in tokens.keys),
        tuple(v[:, -count:] for v in tokens.values),
        tokens.positions[-count:],
        tokens.surprise,
        tokens.hidden[-count:],
    )
    return (*kept, keep_pairs(few, [None] * len(few.keys), study.span.origins))
