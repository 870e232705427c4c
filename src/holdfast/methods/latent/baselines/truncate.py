"""Drop the oldest: what every agent does when nothing better is at hand. The baseline in every table.

Cost: nothing. Serves every model.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from holdfast.context.budget import Budget
from holdfast.context.segments import Segment, TokenSegment
from holdfast.engine.kv_context import KVContext
from holdfast.engine.local import LocalEngine
from holdfast.methods.base import Span
from holdfast.progress import Progress, quiet


@dataclass(frozen=True)
class Truncate:
    """Keeps the newest tokens of the span verbatim, at their own positions."""

    name: ClassVar[str] = "truncate"
    by_turn: ClassVar[bool] = False

    def study(self, span: Span, past: KVContext, engine: LocalEngine, progress: Progress = quiet) -> Span:
        return span

    def compress(self, study: Span, budget: Budget, progress: Progress = quiet) -> tuple[Segment, ...]:
        kept = study.ids[-budget.slots :]
        first = study.origins[-1].tokens[1] - len(kept)
        origins = tuple(replace(o, tokens=(max(first, o.tokens[0]), o.tokens[1])) for o in study.origins)
        held = tuple(o for o in origins if o.tokens[0] < o.tokens[1])
        return (TokenSegment(kept, study.positions[-len(kept) :], held),)
