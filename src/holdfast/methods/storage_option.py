"""The option of every latent method: `storage`, the form in which its KV slots are held, in memory and on disk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from holdfast.context.budget import Budget
from holdfast.context.entropy_coding import load_coder
from holdfast.context.segments import Segment, StateSegment
from holdfast.context.surgery import encode_segment, quantize_segment
from holdfast.engine.kv_context import KVContext
from holdfast.engine.local import LocalEngine
from holdfast.errors import BadOption
from holdfast.methods.base import LatentMethod, RankedStudy, Span
from holdfast.model.quantized_slots import CODED, FORMS, Form
from holdfast.model.slots import MODEL
from holdfast.model.state_bases import StateBases, require_bases
from holdfast.progress import Progress, quiet

DEFAULT_STEP, COARSEST = "4", 64


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
        made = self.check(self.method.compress(study, budget, progress))
        return tuple(quantize_segment(s, self.form) if isinstance(s, StateSegment) else s for s in made)

    def check(self, made: tuple[Segment, ...]) -> tuple[Segment, ...]:
        """Returns the segments. Raises BadOption if there are no states among them."""
        if not any(isinstance(segment, StateSegment) for segment in made):
            raise BadOption(
                f"{self.name} keeps no KV slots here, so storage={self.form} would change nothing; leave it out"
            )
        return made


@dataclass(frozen=True)
class BasedStudy:
    """A method's study, and the bases in which its slots will be coded."""

    study: Any
    bases: StateBases

    @property
    def prefill(self) -> Any:
        """The full memory, if the method holds one; raises AttributeError if it does not."""
        return self.study.prefill

    @property
    def report(self) -> Any:
        """The report of the method, likewise."""
        return self.study.report


@dataclass(frozen=True)
class RankedBasedStudy(BasedStudy):
    """The study of a method that ranks KV pairs, likewise."""

    @property
    def scores(self) -> dict[int, Tensor]:
        found: dict[int, Tensor] = self.study.scores
        return found

    def with_scores(self, scores: dict[int, Tensor]) -> RankedBasedStudy:
        """Returns the study with other scores."""
        return RankedBasedStudy(self.study.with_scores(scores), self.bases)


@dataclass(frozen=True)
class MethodWithCodedSlots(MethodWithStorage):
    """A method whose KV slots are codes in the calibrated bases of the model (`model/state_bases.py`)."""

    step: float = 1.0
    """Size of a rounding step; 1 is the finest."""

    def study(self, span: Span, past: KVContext, engine: LocalEngine, progress: Progress = quiet) -> BasedStudy:
        """Returns the method's study with the model's bases. Raises BadOption where there are none."""
        bases = require_bases(engine.model.digest, engine.model.name)  # before anything is read
        load_coder()  # and before hours are spent on what could not be written
        study = self.method.study(span, past, engine, progress)
        return (RankedBasedStudy if isinstance(study, RankedStudy) else BasedStudy)(study, bases)

    def compress(self, study: BasedStudy, budget: Budget, progress: Progress = quiet) -> tuple[Segment, ...]:
        """Returns the method's segments, their states coded. Raises BadOption if it keeps no states."""
        made = self.check(self.method.compress(study.study, budget, progress))
        return tuple(encode_segment(s, study.bases, self.step) if isinstance(s, StateSegment) else s for s in made)


def apply_storage(method: LatentMethod, form: str, step: str) -> LatentMethod:
    """Returns `method` with its slots held in `form`. Raises BadOption for a form or a step that does not exist."""
    if form not in FORMS:
        raise BadOption(f"{method.name}: storage must be one of {', '.join(FORMS)}, got {form!r}")
    if form != CODED:
        if step:
            raise BadOption(f"{method.name}: step is for storage={CODED}, and this is storage={form}; leave it out")
        return method if form == MODEL else MethodWithStorage(method, form)
    try:
        size = float(step or DEFAULT_STEP)
    except ValueError:
        size = 0.0
    if not 1 <= size <= COARSEST:
        raise BadOption(f"{method.name}: step must be a number from 1 (fine) to {COARSEST}, got {step!r}")
    return MethodWithCodedSlots(method, form, size)
