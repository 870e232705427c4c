"""Average: one input embedding for each group of neighbouring tokens, without any training.

The naive methods of the thesis, which had them at two tokens a vector: means of embeddings (`hard`), of what
the model expects (`online`), of what it computes while it says the text again (`regenerate`). Serves every family.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from holdfast.context.budget import Budget
from holdfast.context.segments import Segment, SoftSegment, TokenSegment
from holdfast.engine.kv_context import KVContext
from holdfast.engine.local import LocalEngine
from holdfast.errors import BadOption
from holdfast.methods.base import Span
from holdfast.methods.token_groups import MEANS, group_positions, mean_vectors
from holdfast.model.load import Model
from holdfast.progress import Progress, quiet


class Study(NamedTuple):
    """A span and its model: the means know nothing of what stands before them."""

    span: Span
    model: Model


@dataclass(frozen=True)
class Average:
    """Replaces every few neighbouring tokens by a mean."""

    of: str = "hard"
    """The mean of the tokens' embeddings (`hard`), of expected ones (`online`), or of hidden states (`regenerate`)."""

    name: ClassVar[str] = "average"
    by_turn: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.of not in MEANS:
            raise BadOption(f"average: of must be one of {', '.join(MEANS)}, got {self.of!r}")

    def study(self, span: Span, past: KVContext, engine: LocalEngine, progress: Progress = quiet) -> Study:
        return Study(span, engine.model)

    def compress(self, study: Study, budget: Budget, progress: Progress = quiet) -> tuple[Segment, ...]:
        span = study.span
        if budget.holds(len(span)):
            return (TokenSegment(span.ids, span.positions, span.origins),)
        progress("average", 0, 1, "")
        vectors = mean_vectors(self.of, span.ids, budget.slots, KVContext(study.model))
        progress("average", 1, 1, "")
        places = span.start + group_positions(len(span), budget.slots)
        return (SoftSegment(vectors.to(study.model.dtype), places, span.origins),)
