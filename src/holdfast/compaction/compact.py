"""Compacts a whole session inside the model: a transcript in, a compact context out, questions answered over it.

`plan.py` says what may be compacted and how, `partition.py` cuts the session into parts, `compact` walks them in order.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from holdfast.blocks.block import Block
from holdfast.blocks.render import RenderedSession, question_ids, render
from holdfast.compaction.partition import Part, parts, ratio_for, spans
from holdfast.compaction.plan import Plan
from holdfast.context import holdfast_file
from holdfast.context.budget import from_ratio
from holdfast.context.segments import CompactContext, Segment, TokenSegment, tokens
from holdfast.context.surgery import keep
from holdfast.engine.kv_context import KVContext
from holdfast.engine.local import LocalEngine, stream_text
from holdfast.engine.sampling import Sampling
from holdfast.errors import BadInput, BadOption
from holdfast.gate.latent.fact_tokens import build_fact_mask
from holdfast.gate.latent.gate import Gate, GatedSpan, LatentReport, compress_through_gate
from holdfast.methods.base import LatentMethod, Progress, Span, quiet
from holdfast.methods.registry import build
from holdfast.model.bundled_models import DEFAULT
from holdfast.model.load import Model
from holdfast.model.load import load as load_model
from holdfast.transcript.turn import Transcript

LATER = 1024  # tokens of what the session said after a span that a method may ask with
ROOM = 256  # tokens kept free behind a session for a question and its answer


def load(name: str = DEFAULT, *, dtype: str = "float32", device: str = "cpu") -> LocalEngine:
    """An engine for a bundled model, a local folder or a Hugging Face id."""
    return LocalEngine(load_model(name, dtype=dtype, device=device))


def save(context: CompactContext, path: str | Path, engine: LocalEngine) -> Path | str:
    """Write a context to one file, or to any URL of fsspec."""
    return holdfast_file.save(context, path, engine.model)


def restore(path: str | Path, engine: LocalEngine) -> CompactContext:
    """Read a context that was made with the same model. Raises BadContext for any other file."""
    return holdfast_file.load(path, engine.model)


def compact(
    transcript: Transcript, engine: LocalEngine, plan: Plan | None = None, progress: Progress = quiet
) -> CompactContext:
    """Compact a session for the engine's model.

    Raises BadInput for a session that cannot be rendered or is too long for the model, and BadOption for a plan that
    makes no sense.
    """
    plan = plan or Plan()
    rendered = render(transcript, engine.model.tokenizer)
    cut = parts(transcript, rendered, plan.policy)
    length, most = sum(map(len, cut)), engine.model.max_tokens - ROOM
    if length > most:
        raise BadInput(
            f"the session has {length} tokens; {engine.model.name} reads {most} and a question; use --window {most} "
            "(Policy.window), or a model with a longer context"
        )
    made = compact_parts(cut, engine, plan, progress)
    told = {"tokens_left_out": len(rendered.ids) - length, "session_digest": session_digest(rendered)}
    return replace(made, evidence={**made.evidence, **told})


def session_digest(rendered: RenderedSession) -> str:
    """What tells whether a session is the one that a context was made from."""
    return hashlib.sha256(",".join(map(str, rendered.ids)).encode()).hexdigest()[:16]


def ask(
    context: CompactContext,
    engine: LocalEngine,
    question: str,
    limit: int = 128,
    sampling: Sampling | None = None,
) -> Iterator[str]:
    """Answer a question over a context, piece by piece; the context is not changed.

    Raises BadInput when question and answer would go beyond what the model reads, BadOption for an answer of no token.
    """
    if limit < 1:
        raise BadOption(f"an answer needs a limit of at least 1 token, got {limit}")
    prompt = question_ids(engine.model.tokenizer, question)
    needed, most = context.next_position + len(prompt) + limit, engine.model.max_tokens
    if needed > most:
        raise BadInput(
            f"{context.next_position} positions, a question of {len(prompt)} tokens and an answer of up to {limit} "
            f"do not fit the {most} that {engine.model.name} reads"
        )
    yield from stream_text(engine.generate(engine.open(context), prompt, limit, sampling), engine.model.tokenizer)


def compact_parts(
    cut: list[Part], engine: LocalEngine, plan: Plan, progress: Progress = quiet, shared: SharedStudy | None = None
) -> CompactContext:
    """Walk the parts in order: verbatim ones are kept, the others compacted against the memory so far.

    Calls that differ in their ratio alone may pass the same `shared` for the same parts.
    """
    return compact_in_memory(cut, engine, plan, progress, shared)[0]


@dataclass(frozen=True)
class StartingMemory:
    """What stands before the parts that are compacted."""

    live: KVContext
    segments: tuple[Segment, ...] = ()
    """What `live` is made of."""
    retain: bool = False
    """Hold the states of what stays verbatim as the engine has them, in place of its tokens."""


def compact_in_memory(
    cut: list[Part],
    engine: LocalEngine,
    plan: Plan,
    progress: Progress = quiet,
    shared: SharedStudy | None = None,
    begin: StartingMemory | None = None,
) -> tuple[CompactContext, KVContext]:
    """`compact_parts`, with the memory that the walk ends in: the same as opening the context."""
    method, shared = build(plan.latent), shared or SharedStudy()
    by_turn = method.by_turn if plan.by_turn is None else plan.by_turn
    if plan.slots is not None:
        plan = replace(plan, ratio=ratio_for(cut, plan.slots, by_turn))
    from_ratio(1, plan.ratio)  # a senseless ratio fails before any work is done
    report = LatentReport(plan.gate.threshold) if plan.gate else None
    work = _SpanCompressor(method, engine, plan.ratio, progress, plan.gate, report)
    first = next((part.start for part in cut if part.compact), -1)
    begin = begin or StartingMemory(KVContext(engine.model))
    segments, live, began = list(begin.segments), begin.live, time.perf_counter()
    ids = torch.tensor([i for part in cut for i in _ids(part.blocks)])
    base = cut[0].start if cut else live.next_position
    for part in cut:
        for span in spans(part, by_turn):
            told = replace(span, later=ids[span.start - base + len(span) :][:LATER])
            made = work.compress(told, live, shared if span.start == first else None)
            segments.extend(made)
            live = _extended(live, made, span.start + len(span))
        if not part.compact:
            kept, live = _kept(part, live, engine, begin.retain)
            segments.append(kept)
    recipe = {"latent": plan.latent, "ratio": plan.ratio, "by_turn": by_turn, "policy": asdict(plan.policy)}
    if plan.slots is not None:  # the ratio is then the one that was worked out
        recipe["slots"] = plan.slots
    evidence = _evidence(cut, live, engine, work.seconds, time.perf_counter() - began)
    if work.told:
        evidence["method"] = work.told
    if plan.gate and report:
        recipe["gate"] = asdict(plan.gate)
        evidence["gate"] = report.as_evidence()
        if plan.gate.strict:
            report.refuse()
    end = base + sum(map(len, cut))
    return CompactContext(tuple(segments), end, recipe, evidence, engine.model.digest), live


def _kept(part: Part, live: KVContext, engine: LocalEngine, retain: bool) -> tuple[Segment, KVContext]:
    """A verbatim part and the memory after it: read from its tokens, or its states as the engine has them."""
    origins, end = tuple(b.origin for b in part.blocks), part.start + len(part)
    if not retain:
        segment = tokens(_ids(part.blocks), part.start, origins)
        return segment, _extended(live, (segment,), end)
    span = Span(part.blocks, part.start)
    after, states = engine.capture(live, span.ids, span.positions)
    after.settle(end)
    return keep(states, [None] * len(states.keys), origins), after


@dataclass
class SharedStudy:
    """What several ratios of one method have in common: nothing before the first span depends on the ratio."""

    study: Any = None
    seconds: float = 0.0


@dataclass
class _SpanCompressor:
    """One compaction under way, and the seconds that it takes on top of reading the session."""

    method: LatentMethod
    engine: LocalEngine
    ratio: float
    progress: Progress
    gate: Gate | None
    report: LatentReport | None
    seconds: float = 0.0
    told: list[Any] = field(default_factory=list)
    """What methods report of their own work, span by span, as the held-out error of a fit."""

    def compress(self, span: Span, live: KVContext, shared: SharedStudy | None) -> tuple[Segment, ...]:
        budget = from_ratio(len(span), self.ratio)
        if budget.holds(len(span)):
            return (TokenSegment(span.ids, span.positions, span.origins),)
        began = time.perf_counter()
        span = replace(span, facts=build_fact_mask(span.blocks, self.engine.model.tokenizer))
        finding = time.perf_counter() - began
        study, seconds = self._study(span, live, shared)
        began = time.perf_counter() - finding
        made = self._gated(GatedSpan(self.method, study, budget, span, live, self.engine, self.progress))
        self.seconds += seconds + time.perf_counter() - began
        if report := getattr(study, "report", None):
            self.told.append(dict(report))
        return made

    def _gated(self, work: GatedSpan) -> tuple[Segment, ...]:
        if self.gate is None or self.report is None:
            return self.method.compress(work.study, work.budget, self.progress)
        return compress_through_gate(self.gate, work, self.report)

    def _study(self, span: Span, live: KVContext, shared: SharedStudy | None) -> tuple[Any, float]:
        if shared and shared.study is not None:
            return shared.study, shared.seconds
        began, read = time.perf_counter(), self.engine.reading_seconds
        study = self.method.study(span, live, self.engine, self.progress)
        seconds = max(0.0, time.perf_counter() - began - (self.engine.reading_seconds - read))
        if shared:
            shared.study, shared.seconds = study, seconds
        return study, seconds


def _extended(live: KVContext, made: tuple[Segment, ...], end: int) -> KVContext:
    """The memory after `made`, with the next token at `end` however few slots were kept."""
    after = live.fork()
    with torch.no_grad():
        for segment in made:
            after.append(segment)
    after.settle(end)
    return after


def _ids(blocks: tuple[Block, ...]) -> list[int]:
    return [i for block in blocks for i in block.ids]


def _evidence(cut: list[Part], live: KVContext, engine: LocalEngine, seconds: float, total: float) -> dict[str, Any]:
    length = sum(map(len, cut))
    return {
        "tokens": length,
        "tokens_compacted": sum(len(part) for part in cut if part.compact),
        "bytes_full": full_bytes(engine.model, length),
        "bytes": live.nbytes,
        "seconds_compact": round(seconds, 3),
        "seconds_total": round(total, 3),
    }


def full_bytes(model: Model, length: int) -> int:
    """KV bytes of `length` verbatim tokens; sliding layers hold only what the next token sees."""
    pair = 2 * model.family.kv_heads * model.family.head_dim * model.dtype.itemsize
    seen = (length if layer.window is None else min(length, layer.window - 1) for layer in model.family.layers)
    return sum(pair * n for n in seen)
