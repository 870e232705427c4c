"""Drop the oldest: what every agent does when nothing better is at hand. The baseline in every table.

Cost: nothing. Serves every model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from holdfast.context.budget import Budget
from holdfast.context.segments import Segment, TokenSegment
from holdfast.engine.live import Live
from holdfast.engine.local import LocalEngine
from holdfast.methods.base import Progress, Span, quiet


@dataclass(frozen=True)
class Truncate:
    """Keeps the newest tokens of the span verbatim, at their own positions."""

    name: ClassVar[str] = "truncate"
    by_turn: ClassVar[bool] = False

    def study(self, span: Span, past: Live, engine: LocalEngine, progress: Progress = quiet) -> Span:
        return span

    def compress(self, study: Span, budget: Budget, progress: Progress = quiet) -> tuple[Segment, ...]:
        return (TokenSegment(study.ids[-budget.slots :], study.positions[-budget.slots :], study.origins),)
