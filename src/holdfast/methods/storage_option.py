"""The option of every latent method: `storage`, the form in which its KV slots are held, in memory and on disk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from holdfast.context.budget import Budget
from holdfast.context.segments import Segment, StateSegment
from holdfast.context.surgery import quantize_segment
from holdfast.engine.kv_context import KVContext
from holdfast.engine.local import LocalEngine
from holdfast.errors import BadOption
from holdfast.methods.base import LatentMethod, Span
from holdfast.model.quantized_slots import FORMS, Form
from holdfast.model.slots import MODEL
from holdfast.progress import Progress, quiet


@dataclass(frozen=True)
class MethodWithStorage:
    """A method whose KV slots are held in fewer bits. What it keeps, and how many slots that takes, is its own."""

    method: LatentMethod
    form: Form

    @property
    def name(self) -> str:
        return self.method.name

    @property
    def by_turn(self) -> bool:
        return self.method.by_turn

    @property
    def allocation(self) -> str:
        """The spread of the method's budget over heads."""
        return str(getattr(self.method, "allocation", "global"))

    @property
    def trained_on(self) -> frozenset[str]:
        """Digests of the sessions that the method was trained on."""
        return getattr(self.method, "trained_on", frozenset())

    def study(self, span: Span, past: KVContext, engine: LocalEngine, progress: Progress = quiet) -> Any:
        return self.method.study(span, past, engine, progress)

    def compress(self, study: Any, budget: Budget, progress: Progress = quiet) -> tuple[Segment, ...]:
        """Returns the method's segments, their states quantized. Raises BadOption if it keeps no states."""
        made = self.method.compress(study, budget, progress)
        if not any(isinstance(segment, StateSegment) for segment in made):
            raise BadOption(
                f"{self.name} keeps no KV slots here, so storage={self.form} would change nothing; leave it out"
            )
        return tuple(quantize_segment(s, self.form) if isinstance(s, StateSegment) else s for s in made)


def apply_storage(method: LatentMethod, form: str) -> LatentMethod:
    """Returns `method` with its slots held in `form`. Raises BadOption for a form that does not exist."""
    if form not in FORMS:
        raise BadOption(f"{method.name}: storage must be one of {', '.join(FORMS)}, got {form!r}")
    return method if form == MODEL else MethodWithStorage(method, form)
