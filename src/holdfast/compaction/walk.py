"""The walk of a compaction: its parts in order, verbatim ones taken as they are, the others compressed span by span.

Every span is compressed against the memory so far. Whole sessions, live sessions and sub-agents are compacted here.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch

from holdfast.blocks.block import Block
from holdfast.compaction.partition import Part, ratio_for, spans
from holdfast.compaction.plan import Plan
from holdfast.context.budget import budget_from_ratio
from holdfast.context.segments import CompactContext, Segment, TokenSegment, token_segment
from holdfast.context.surgery import keep_pairs, quantize_segment
from holdfast.engine.kv_context import KVContext
from holdfast.engine.local import LocalEngine
from holdfast.gate.latent.fact_tokens import build_fact_mask
from holdfast.gate.latent.gate import GatedSpan, LatentReport, compress_through_gate
from holdfast.methods.base import LatentMethod, Span
from holdfast.methods.registry import build
from holdfast.model.load import BASE_DTYPE, BASE_ITEMSIZE, full_bytes
from holdfast.model.slots import MODEL
from holdfast.progress import Progress, quiet

LATER = 1024  # tokens of what the session said after a span that a method may ask with


@dataclass(frozen=True)
class StartingMemory:
    """The memory in front of the parts that are compacted."""

    live: KVContext
    segments: tuple[Segment, ...] = ()
    """The segments that `live` consists of."""
    retain: bool = False
    """True: what stays verbatim enters the context as the states that the engine has, and not as tokens."""


@dataclass
class SharedStudy:
    """The study of the first span, which several ratios of one method share: it does not depend on the ratio."""

    study: Any = None
    seconds: float = 0.0


def compact_parts(
    parts: Sequence[Part],
    engine: LocalEngine,
    plan: Plan,
    progress: Progress = quiet,
    shared: SharedStudy | None = None,
) -> CompactContext:
    """Compacts the parts of a session. Calls that differ in their ratio alone may pass the same `shared`."""
    return compact_in_memory(parts, engine, plan, progress, shared)[0]


def compact_in_memory(
    parts: Sequence[Part],
    engine: LocalEngine,
    plan: Plan,
    progress: Progress = quiet,
    shared: SharedStudy | None = None,
    begin: StartingMemory | None = None,
) -> tuple[CompactContext, KVContext]:
    """Compacts the parts behind `begin`; returns the whole context, and the memory that it is when it is opened.

    Raises BadOption for a plan that makes no sense, Lost if a strict gate finds losses.
    """
    began = time.perf_counter()
    walk = _Walk.start(parts, engine, plan, progress, shared, begin or StartingMemory(KVContext(engine.model)))
    for part in parts:
        if part.compact:
            walk.compress(part)
        else:
            walk.take_verbatim(part)
    walk.finish()
    evidence = walk.evidence(time.perf_counter() - began)
    if walk.report and plan.gate and plan.gate.strict:
        walk.report.refuse()
    return CompactContext(tuple(walk.segments), walk.end, walk.recipe(), evidence, engine.model.digest), walk.live


@dataclass
class _Walk:
    """One compaction under way: the memory so far, and the seconds that it takes on top of reading the session."""

    live: KVContext
    segments: list[Segment]
    retain: bool
    parts: Sequence[Part]
    engine: LocalEngine
    plan: Plan
    method: LatentMethod
    by_turn: bool
    ids: torch.Tensor
    """Token ids of all parts, `[n]`."""
    base: int
    """The position of the first of them."""
    progress: Progress
    shared: SharedStudy
    report: LatentReport | None
    seconds: float = 0.0
    reports: list[Any] = field(default_factory=list)
    """The methods' reports of their own work, span by span, as the held-out error of a fit."""

    @classmethod
    def start(
        cls,
        parts: Sequence[Part],
        engine: LocalEngine,
        plan: Plan,
        progress: Progress,
        shared: SharedStudy | None,
        begin: StartingMemory,
    ) -> _Walk:
        method = build(plan.latent)
        by_turn = method.by_turn if plan.by_turn is None else plan.by_turn
        if plan.slots is not None:
            plan = replace(plan, ratio=ratio_for(parts, plan.slots, by_turn))
        budget_from_ratio(1, plan.ratio)  # a senseless ratio fails before any work is done
        ids = torch.tensor([i for part in parts for i in _ids(part.blocks)])
        base = parts[0].start if parts else begin.live.next_position
        report = LatentReport(plan.gate.threshold) if plan.gate else None
        before, shared = (begin.live, list(begin.segments), begin.retain), shared or SharedStudy()
        return cls(*before, parts, engine, plan, method, by_turn, ids, base, progress, shared, report)

    @property
    def end(self) -> int:
        """The position behind the last part."""
        return self.base + sum(map(len, self.parts))

    def compress(self, part: Part) -> None:
        """Takes up a part that is compacted, span by span."""
        first = next((part.start for part in self.parts if part.compact), -1)
        for span in spans(part, self.by_turn):
            later = self.ids[span.start - self.base + len(span) :][:LATER]
            made = self._compress_span(replace(span, later=later), span.start == first)
            self._take(made, span.start + len(span))

    def take_verbatim(self, part: Part) -> None:
        """Takes up a part that stays: read from its tokens, or with its states, in fewer bits if the policy says so."""
        origins, end = tuple(b.origin for b in part.blocks), part.start + len(part)
        form = self.plan.policy.verbatim
        if not self.retain and form == MODEL:
            self._take((token_segment(_ids(part.blocks), part.start, origins),), end)
            return
        span = Span(part.blocks, part.start)
        read, states = self.engine.capture(self.live, span.ids, span.positions)
        segment = keep_pairs(states, [None] * len(states.keys), origins)
        if form != MODEL:
            self._take((quantize_segment(segment, form),), end)  # type: ignore[arg-type]  # the policy checked it
            return
        self.live = read
        self.live.settle(end)
        self.segments.append(segment)

    def _take(self, made: Sequence[Segment], end: int) -> None:
        self.segments.extend(made)
        self.live = self.live.extend(made, end)

    def _compress_span(self, span: Span, is_first: bool) -> tuple[Segment, ...]:
        budget = budget_from_ratio(len(span), self.plan.ratio)
        if budget.holds(len(span)):
            return (TokenSegment(span.ids, span.positions, span.origins),)
        began = time.perf_counter()
        span = replace(span, facts=build_fact_mask(span.blocks, self.engine.model.tokenizer))
        self.seconds += time.perf_counter() - began
        study = self._study(span, is_first)
        began = time.perf_counter()
        if self.plan.gate and self.report:
            work = GatedSpan(self.method, study, budget, span, self.live, self.engine, self.progress)
            made = compress_through_gate(self.plan.gate, work, self.report)
        else:
            made = self.method.compress(study, budget, self.progress)
        self.seconds += time.perf_counter() - began
        if report := getattr(study, "report", None):
            self.reports.append(dict(report))
        return made

    def _study(self, span: Span, is_first: bool) -> Any:
        """Returns the method's study of a span: that of an earlier ratio, if the span is the first one."""
        if not (is_first and self.shared.study is not None):
            began, read = time.perf_counter(), self.engine.reading_seconds
            study = self.method.study(span, self.live, self.engine, self.progress)
            seconds = max(0.0, time.perf_counter() - began - (self.engine.reading_seconds - read))
            if not is_first:
                self.seconds += seconds
                return study
            self.shared.study, self.shared.seconds = study, seconds
        self.seconds += self.shared.seconds
        return self.shared.study

    def finish(self) -> None:
        """Takes what the gate measures once, behind the last span."""
        if self.report:
            began = time.perf_counter()
            self.report.measure_skills(self.engine)
            self.seconds += time.perf_counter() - began

    def recipe(self) -> dict[str, Any]:
        plan = self.plan
        made = {"latent": plan.latent, "ratio": plan.ratio, "by_turn": self.by_turn, "policy": asdict(plan.policy)}
        if plan.slots is not None:  # the ratio is then the one that was worked out
            made["slots"] = plan.slots
        return made | ({"gate": asdict(plan.gate)} if plan.gate else {})

    def evidence(self, seconds: float) -> dict[str, Any]:
        """Returns sizes and seconds, and what methods and the gate report."""
        length = sum(map(len, self.parts))
        made: dict[str, Any] = {
            "tokens": length,
            "tokens_compacted": sum(len(part) for part in self.parts if part.compact),
            "bytes_full": full_bytes(self.engine.model, length),
            "bytes": self.live.nbytes,
            "bytes_base": BASE_DTYPE,
            "base_bytes_full": full_bytes(self.engine.model, length, BASE_ITEMSIZE),
            "base_bytes": self.live.cache.nbytes_at(BASE_ITEMSIZE),
            "seconds_compact": round(self.seconds, 3),
            "seconds_total": round(seconds, 3),
        }
        if self.reports:
            made["method"] = self.reports
        return made | ({"gate": self.report.as_evidence()} if self.report else {})


def _ids(blocks: Sequence[Block]) -> list[int]:
    return [i for block in blocks for i in block.ids]
