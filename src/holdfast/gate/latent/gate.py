"""The gate of latent compaction: measures lost facts, repairs them if it can, reports the rest, and may fail closed.

It works on one span and any latent method. It costs a repeat over the full memory and one over each candidate, which
count into the compaction's seconds.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from holdfast.context.budget import Budget
from holdfast.context.segments import Segment
from holdfast.engine.kv_context import KVContext
from holdfast.engine.local import LocalEngine
from holdfast.errors import BadOption, Lost
from holdfast.gate.latent.cue import CueCheck
from holdfast.gate.latent.fact_tokens import FactTokens, locate_facts
from holdfast.gate.latent.repair import make_scores_finite, measure_carriers, prefer_carriers
from holdfast.gate.latent.skill_check import measure_skill
from holdfast.gate.latent.survival import Survival, find_runs, measure_fall
from holdfast.methods.base import LatentMethod, RankedStudy, Span
from holdfast.methods.reference_queries import SpanPrefill
from holdfast.methods.registry import read_options
from holdfast.methods.repeat_prompt import score_repeat
from holdfast.progress import Progress, quiet

NOTABLE_FALL = 0.1  # nats; a smaller fall is not worth a line
REPAIR_SHARES = (0.05, 0.1)  # of the budget, that may go to the strongest carriers of lost facts, round by round


@dataclass(frozen=True)
class Gate:
    """The conditions that a compaction must meet, and the means to meet them."""

    threshold: float = 1.0
    """With `ask=repeat`: nats by which the log-probability of a token may fall before it is lost. With `ask=cue`:
    the least nats that a span counts as supplying to a fact.
    """
    share: float = 0.4
    """With `ask=cue`: the part of what the span supplies to a fact that may go before the fact is lost."""
    ask: str = "repeat"
    """`repeat`: every token of the span, in a repeat. `cue`: each fact behind a few tokens of its own (`cue.py`)."""
    repair: bool = True
    """Give lost tokens their pairs back, and use the result if it lost less."""
    allow_over: float = 0.0
    """Part of the budget by which repair may exceed it."""
    strict: bool = False
    """Raise Lost if a fact is still lost at the end."""

    def __post_init__(self) -> None:
        if not 0 < self.threshold < float("inf"):
            raise BadOption(f"gate: threshold must be above 0 nats, got {self.threshold}")
        if not 0 < self.share < 1:
            raise BadOption(f"gate: share must be between 0 and 1 of what the span supplies, got {self.share}")
        if self.ask not in ("cue", "repeat"):
            raise BadOption(f"gate: ask must be cue or repeat, got {self.ask!r}")
        if not 0 <= self.allow_over <= 1:
            raise BadOption(f"gate: allow_over must be between 0 and 1 of the budget, got {self.allow_over}")


@dataclass
class LatentReport:
    """The findings of the gate, over all spans of a session."""

    threshold: float
    tokens: int = 0
    seconds: float = 0.0
    """Seconds of measuring and repairing, part of the compaction's."""
    slots_over: int = 0
    """Slots a head beyond the budget, over all spans."""
    facts: dict[str, Counter[str]] = field(default_factory=dict)
    """Per kind: the number `found`, and of these `kept`, `repaired` or `lost`."""
    lost: list[dict[str, Any]] = field(default_factory=list)
    repaired: list[dict[str, Any]] = field(default_factory=list)
    spans_lost: list[tuple[int, int]] = field(default_factory=list)
    """Runs of lost tokens of the session."""
    spans_repaired: list[tuple[int, int]] = field(default_factory=list)
    falls: list[tuple[int, float]] = field(default_factory=list)
    """Every token of the session that fell by more than `NOTABLE_FALL`, lost or not, and its nats."""
    nats_lost_first: float = 0.0
    """Nats by which all tokens together fell before any repair."""
    nats_lost: float = 0.0
    skills: dict[str, float] = field(default_factory=dict)
    """The unrelated control over the full and over the compact memory after the last span, nats a token."""
    memories: tuple[KVContext, KVContext] | None = field(default=None, repr=False, compare=False)
    """The full and the compact memory after the last span, until the control is measured over them."""

    def add(self, before: Survival, after: Survival, facts: Sequence[FactTokens]) -> None:
        """Counts one span in."""
        self.tokens += len(after.fall)
        self.nats_lost_first += sum_falls(before)
        self.nats_lost += sum_falls(after)
        self.spans_lost += after.spans()
        notable = after.fall > NOTABLE_FALL
        self.falls += zip(after.index[notable].tolist(), after.fall[notable].tolist(), strict=True)
        self.spans_repaired += find_runs(after.index[before.loss_mask & ~after.loss_mask])
        for found in facts:
            counts = self.facts.setdefault(found.fact.kind.value, Counter(found=0, kept=0, repaired=0, lost=0))
            counts["found"] += 1
            if after.is_lost(found):
                counts["lost"] += 1
                self.lost.append(_entry(found, after))
            elif before.is_lost(found):
                counts["repaired"] += 1
                self.repaired.append(_entry(found, before))
            else:
                counts["kept"] += 1

    def measure_skills(self, engine: LocalEngine) -> None:
        """Measures the unrelated control, once behind the last span, and lets the memories go."""
        if self.memories is None:
            return
        began = time.perf_counter()
        self.skills, self.memories = measure_skills(engine, *self.memories), None
        self.seconds += time.perf_counter() - began

    def as_evidence(self) -> dict[str, Any]:
        """Returns the report for the manifest."""
        return {
            "threshold": self.threshold,
            "tokens": self.tokens,
            "tokens_lost": sum(b - a for a, b in self.spans_lost),
            "nats_lost_first": round(self.nats_lost_first, 2),
            "nats_lost": round(self.nats_lost, 2),
            "atoms": {kind: dict(counts) for kind, counts in self.facts.items()},
            "lost": self.lost,
            "repaired": self.repaired,
            "spans_lost": [list(span) for span in self.spans_lost],
            "spans_repaired": [list(span) for span in self.spans_repaired],
            "falls": [[at, round(nats, 2)] for at, nats in self.falls],
            "slots_over": self.slots_over,
            "skills": self.skills,
            "seconds": round(self.seconds, 3),
        }

    def refuse(self) -> None:
        """Raises Lost if a fact is lost."""
        if self.lost:
            first = ", ".join(f"{x['kind']} {x['text']!r} (turn {x['turn'] + 1})" for x in self.lost[:5])
            more = f" and {len(self.lost) - 5} more" if len(self.lost) > 5 else ""
            raise Lost(
                f"{len(self.lost)} facts would be lost: {first}{more}; use a lower ratio, allow more room "
                "(--allow-over), or go without --strict",
                self.lost,
            )


@dataclass(frozen=True)
class GatedSpan:
    """One span on its way through the gate."""

    method: LatentMethod
    study: Any
    budget: Budget
    span: Span
    past: KVContext
    engine: LocalEngine
    progress: Progress = quiet

    def prefill(self) -> SpanPrefill:
        """Returns the full memory: the method's own, or read once more if the method holds none."""
        own = getattr(self.study, "prefill", None)
        if isinstance(own, SpanPrefill):
            return own
        after, states = self.engine.capture(self.past, self.span.ids, self.span.positions)
        return SpanPrefill(self.span, self.past, after, states, self.engine, self.progress)

    @property
    def end(self) -> int:
        """The position behind the span."""
        return self.span.start + len(self.span)

    def build_memory(self, segments: Sequence[Segment]) -> KVContext:
        """Returns the compact memory as the session would hold it."""
        return self.past.extend(segments, self.end)

    def check(self, facts: Sequence[FactTokens], prefill: SpanPrefill) -> CueCheck:
        """Returns the facts, asked over the full memory and over one without the span."""
        return CueCheck(facts, self.span, (prefill.after, self.past.extend((), self.end)), self.engine)


def compress_through_gate(gate: Gate, work: GatedSpan, report: LatentReport) -> tuple[Segment, ...]:
    """Compresses a span, measures the lost facts, repairs them if that helps, and counts the span into `report`."""
    budget = work.budget
    segments = work.method.compress(work.study, budget, work.progress)
    began = time.perf_counter()
    prefill = work.prefill()
    index = torch.cat([torch.arange(*block.origin.tokens) for block in work.span.blocks])
    facts = locate_facts(work.span.blocks, work.engine.model.tokenizer)

    asked = work.check(facts, prefill) if gate.ask == "cue" else None

    def measure(segments: Sequence[Segment]) -> Survival:
        memory = work.build_memory(segments)
        if asked:
            return asked.measure(memory, gate.threshold, gate.share, work.progress)
        log_probs = score_repeat(memory, work.span.ids, work.progress)
        return Survival(measure_fall(prefill.repeat_log_probs, log_probs), index, gate.threshold)

    first = best = measure(segments)
    if gate.repair and isinstance(work.study, RankedStudy):
        room = Budget(work.budget.slots + int(work.budget.slots * gate.allow_over))
        for share in REPAIR_SHARES:
            lost = mask_lost_facts(best, facts)
            if not lost.any():
                break
            scores = prefer_carriers(work.study.scores, measure_carriers(prefill, lost), share * room.slots)
            candidate = make_scores_finite(work.method.compress(work.study.with_scores(scores), room, work.progress))
            again = measure(candidate)
            if sum_falls(again, facts) >= sum_falls(best, facts):
                break
            segments, best, budget = candidate, again, room
    report.slots_over += budget.slots - work.budget.slots
    report.memories = prefill.after, work.build_memory(segments)
    report.add(first, best, facts)
    report.seconds += time.perf_counter() - began
    return segments


def sum_falls(survival: Survival, facts: Sequence[FactTokens] | None = None) -> float:
    """Returns the nats by which all tokens fell together, or the tokens of `facts` alone."""
    fall = survival.fall.clamp_min(0)
    return float(fall.sum() if facts is None else fall[_mask(survival, facts)].sum())


def mask_lost_facts(survival: Survival, facts: Sequence[FactTokens]) -> Tensor:
    """Returns `[T]` bool: the tokens of lost facts that fell themselves."""
    return _mask(survival, [found for found in facts if survival.is_lost(found)]) & (survival.fall > NOTABLE_FALL)


def measure_skills(engine: LocalEngine, full: KVContext, compact: KVContext) -> dict[str, float]:
    """Measures the unrelated skills over the full and over the compact memory, in nats a token."""
    return {"full": round(measure_skill(engine, full), 4), "compact": round(measure_skill(engine, compact), 4)}


def _mask(survival: Survival, facts: Sequence[FactTokens]) -> Tensor:
    out = torch.zeros_like(survival.fall, dtype=torch.bool)
    for found in facts:
        out[survival.token_slice(found)] = True
    return out


def _entry(found: FactTokens, survival: Survival) -> dict[str, Any]:
    return {
        "kind": found.fact.kind.value,
        "text": found.fact.text,
        "turn": found.turn,
        "tokens": list(found.tokens),
        "nats": round(survival.nats(found), 2),
    }


def split_gate_spec(spec: str) -> tuple[str, Gate | None]:
    """Parses a method and its gate from `METHOD` or `METHOD+gate` or `METHOD+gate:repair=false,allow_over=0.1`.

    Raises BadOption for an option that a gate does not have.
    """
    method, plus, options = spec.partition("+gate")
    if not plus or (options and not options.startswith(":")):
        return spec, None
    return method, Gate(**read_options("gate", Gate, options[1:]))
