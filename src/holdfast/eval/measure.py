"""All methods on one window of a session, measured one after another and written as rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any

from holdfast.compaction.plan import Plan, Policy
from holdfast.compaction.walk import SharedStudy
from holdfast.context.segment_tensors import file_nbytes
from holdfast.engine.kv_context import KVContext
from holdfast.engine.local import LocalEngine
from holdfast.errors import BadOption, Lost
from holdfast.eval.actions import compare_actions, read_action
from holdfast.eval.asking import (
    ContextResult,
    GreedyAction,
    Inquiry,
    Limits,
    Openings,
    drafts_from_session,
    drafts_of,
    token_ids,
)
from holdfast.eval.metrics import keyword_hit
from holdfast.eval.open_window import OpenWindow
from holdfast.eval.probes import check_unknown
from holdfast.eval.rows import FULL, NONE, Row, describe_run, read_clock
from holdfast.eval.windows import Window
from holdfast.facts.fact import FactKind
from holdfast.gate.latent.gate import split_gate_spec
from holdfast.model.load import BASE_DTYPE, BASE_ITEMSIZE, full_bytes
from holdfast.progress import Progress

LEAKED = 8  # tokens of an answer without the span, in which a fair probe's keyword does not stand
Note = Callable[[str], None]
Key = tuple[Any, ...]


@dataclass(frozen=True)
class RunSettings:
    """The settings that all windows of a run share."""

    engine: LocalEngine
    latent: tuple[str, ...]
    ratios: tuple[float, ...]
    by_turn: bool | None
    config: dict[str, Any]
    seed: int
    limits: Limits
    openings: Openings
    known: Set[Key]
    """Rows that are already measured."""
    progress: Progress
    note: Note

    @property
    def blank_limits(self) -> Limits:
        """The limits without the span: there is always an answer, because who knows it is left out."""
        return replace(self.limits, answer=max(self.limits.answer, LEAKED))


@dataclass(frozen=True)
class Measurement:
    """A context that was asked, and what it cost."""

    spec: str
    ratio: float | None
    live: KVContext
    result: ContextResult
    seconds: float
    """Of its compaction."""
    stored: int = 0
    """Bytes of its segments in a file."""
    gate: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Baseline:
    """The contexts and answers that every method of a window is measured against."""

    opened: OpenWindow
    asking: Inquiry
    reference: ContextResult
    """The answers of the full context."""

    def sizes(self, live: KVContext) -> dict[str, Any]:
        """Returns the fields of a row about its size: bytes as a bfloat16 model holds them."""
        window, model = self.opened.window, self.opened.engine.model
        none, held = (x.cache.nbytes_at(BASE_ITEMSIZE) for x in (self.opened.none, live))
        full = full_bytes(model, window.tokens, BASE_ITEMSIZE)
        span = sum(len(p) for p in window.parts if p.compact)
        share = (held - none) / (full - none) if full > none else 0.0
        return {
            "tokens_full": window.tokens,
            "tokens_span": span,
            "slots": round(span * share, 3),
            "bytes_full": full,
            "bytes": held,
            "bytes_span_full": full - none,
            "bytes_span": held - none,
            "bytes_base": BASE_DTYPE,
        }


def key(row: Row) -> Key:
    """Returns the identity of a measurement: a row of a known key need not be measured again."""
    return *place(row), row.method, row.ratio


def place(row: Row) -> Key:
    """Returns the identity of a probe in a window of a session."""
    return row.transcript, row.session_digest, row.window, row.probe, row.probe_digest


@dataclass
class WindowRun:
    """All methods on one window."""

    setting: RunSettings
    name: str
    session_digest: str
    window: Window

    def rows(self) -> Iterator[Row]:
        """Measures the missing rows, the baselines first."""
        if not self.pending():
            return
        opened = OpenWindow.read(self.window, self.setting.engine)
        asking = Inquiry(opened.engine, self.window, self.setting.limits, self.setting.openings)
        whole = replace(asking, limits=replace(asking.limits, passes=0))  # others are compared with all of it
        reference = whole.ask(opened.full, drafts_from_session(asking))
        blank = replace(asking, limits=self.setting.blank_limits).ask(opened.none, drafts_of(reference))
        base = Baseline(opened, asking, reference)
        reasons = [check_unknown(p, text) for p, text in zip(self.window.probes, self._texts(blank), strict=True)]
        yield from self._make_rows(Measurement(NONE, None, opened.none, blank, 0.0), base, reasons)
        self._leave_out(reasons)
        pending = self.pending()
        if not self.window.probes or not pending:
            return
        reference = reference.select([not reason for reason in reasons])
        base = Baseline(opened, replace(asking, window=self.window), reference)
        yield from self._make_rows(Measurement(FULL, 1.0, opened.full, reference, 0.0), base)
        shared: dict[str, SharedStudy] = {}
        for spec, ratio in pending:
            if spec not in (FULL, NONE) and ratio is not None:
                study = shared.setdefault(split_gate_spec(spec)[0], SharedStudy())
                yield from self._measure_method(spec, ratio, study, base)

    def _leave_out(self, reasons: Sequence[str]) -> None:
        """Drops the probes that the model answers without the span, and says so."""
        for probe, reason in zip(self.window.probes, reasons, strict=True):
            if reason:
                self.setting.note(f"{probe.id} is left out: {reason}")
        self.window = self.window.select([not reason for reason in reasons])

    def pending(self) -> list[tuple[str, float | None]]:
        """Returns the methods and ratios of which a row is missing."""
        return [(spec, ratio) for spec, ratio in self._plans() if self._missing(spec, ratio)]

    def _measure_method(self, spec: str, ratio: float, shared: SharedStudy, base: Baseline) -> Iterator[Row]:
        self.setting.progress("method", 0, 1, f"{spec} at {ratio:g}x")
        method, gate = split_gate_spec(spec)
        plan = Plan(method, ratio, self.setting.by_turn, Policy(pin=(), keep_recent=0), gate)
        try:
            context, live = base.opened.compact(plan, self.setting.progress, shared)
        except (BadOption, Lost) as error:
            self.setting.note(f"{self.name} {self.window.id}: {spec} at {ratio:g}x is left out: {error}")
            return
        result = base.asking.ask(live, drafts_of(base.reference))
        seconds, found = float(context.evidence["seconds_compact"]), context.evidence.get("gate")
        yield from self._make_rows(Measurement(spec, ratio, live, result, seconds, file_nbytes(context), found), base)

    def _plans(self) -> Iterator[tuple[str, float | None]]:
        yield FULL, 1.0
        yield NONE, None
        for spec in dict.fromkeys(self.setting.latent):
            if spec not in (FULL, NONE):
                yield from ((spec, ratio) for ratio in self.setting.ratios)

    def _missing(self, spec: str, ratio: float | None) -> bool:
        here = (self.name, self.session_digest, self.window.id)
        keys = ((*here, p.id, p.digest, spec, ratio) for p in self.window.probes)
        return any(k not in self.setting.known for k in keys)

    def _texts(self, result: ContextResult) -> list[str]:
        return [self.setting.engine.model.tokenizer.decode(ids) for ids in result.said]

    def _make_rows(self, measured: Measurement, base: Baseline, reasons: Sequence[str] = ()) -> Iterator[Row]:
        common = {**self._identity(), **base.sizes(measured.live), **self._fidelity(measured.result, base)}
        common |= {"method": measured.spec, "ratio": measured.ratio, "seconds_compact": measured.seconds}
        common |= {"bytes_stored": measured.stored}
        common |= {"seconds_prefill": base.opened.seconds, "seconds_measure": measured.result.seconds}
        tokenizer, got = self.setting.engine.model.tokenizer, measured.result
        for i, (probe, text) in enumerate(zip(self.window.probes, self._texts(got), strict=True)):
            row = Row(
                **common,
                probe=probe.id,
                probe_digest=probe.digest,
                category=probe.category,
                question=probe.question,
                answer=probe.answer,
                distractor=probe.distractor,
                answer_logprob=got.answers[i],
                answer_tokens=len(token_ids(tokenizer, probe.answer)),
                distractor_logprob=got.distractors[i],
                distractor_tokens=len(token_ids(tokenizer, probe.distractor)),
                text=text,
                keyword=keyword_hit(text, probe.accept) if self.setting.limits.answer else None,
                left_out=reasons[i] if reasons else "",
                **_gate_verdict(measured.gate, self.window.literals[i]),
            )
            if key(row) not in self.setting.known:
                yield row

    def _identity(self) -> dict[str, Any]:
        model = self.setting.engine.model
        return {
            **describe_run(model, self.setting.config),
            "created": read_clock(),
            "model_parameters": sum(weight.numel() for weight in model.hf.parameters()),
            "seed": self.setting.seed,
            "transcript": self.name,
            "session_digest": self.session_digest,
            "window": self.window.id,
        }

    def _fidelity(self, got: ContextResult, base: Baseline) -> dict[str, Any]:
        decode, whole = self.setting.engine.model.tokenizer.decode, not self.setting.limits.passes
        actions = action_fields("next_action", got.action, base.reference.action, self.window.calls, decode, whole)
        later = self.window.later
        if later is not None:
            actions |= action_fields("later_action", got.later, base.reference.later, later.calls, decode, whole)
        ours, theirs = got.next_log_probs, base.reference.next_log_probs
        if ours is None or theirs is None:
            return actions
        return actions | {
            "kl": max(0.0, float((theirs.exp() * (theirs - ours)).sum(-1).mean())),
            "top1": float((ours.argmax(-1) == theirs.argmax(-1)).float().mean()),
        }


def action_fields(
    name: str, ours: GreedyAction, theirs: GreedyAction, calls: bool, decode: Callable[[Any], str], whole: bool
) -> dict[str, Any]:
    """Returns the fields of a row about an action: the recorded one, and the greedy one beside the full context's.

    One that ends where it parts from that, and is not `whole`, has no F1.
    """
    made: dict[str, Any] = {f"{name}_logprob": ours.logprob, f"{name}_tokens": ours.tokens}
    if not theirs.ids:
        return made
    texts = decode(ours.ids), decode(theirs.ids)
    found = compare_actions(*(read_action(text, calls) for text in texts))
    greedy = {"text": texts[0], "tool": found.tool, "exact": found.exact, "f1": found.f1 if whole else None}
    return made | {f"{name}_{field}": value for field, value in greedy.items()}


def _gate_verdict(gate: Mapping[str, Any] | None, literal: tuple[int, int]) -> dict[str, Any]:
    """Returns the gate's verdict on the tokens of a probe's literal, and on the user's prohibitions."""
    if gate is None:
        return {}
    first, last = literal
    nats = sum(fall for at, fall in gate["falls"] if first <= at < last)
    lost = any(a < last and first < b for a, b in gate["spans_lost"])
    forbidden = [fact["text"] for fact in gate["lost"] if fact["kind"] == FactKind.PROHIBITION]
    return {"gate_nats": nats, "gate_lost": lost, "prohibitions_lost": forbidden}
