"""All methods on one window of a session, measured one after another and written as rows."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import holdfast
from holdfast.blocks.render import question_ids
from holdfast.compaction.partition import Part
from holdfast.compaction.plan import Plan, Policy
from holdfast.compaction.walk import SharedStudy, compact_in_memory
from holdfast.context.segments import CompactContext, token_segment
from holdfast.engine.kv_context import KVContext
from holdfast.engine.local import Continuation, LocalEngine
from holdfast.errors import BadOption, Lost
from holdfast.eval.metrics import keyword_hit
from holdfast.eval.probes import Probe, check_unknown
from holdfast.eval.rows import FULL, NONE, Row
from holdfast.eval.windows import Window
from holdfast.facts.fact import FactKind
from holdfast.gate.latent.gate import split_gate_spec
from holdfast.model.load import full_bytes
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
    answer_tokens: int
    known: Set[Key]
    """Rows that are already measured."""
    progress: Progress
    note: Note


@dataclass(frozen=True)
class ContextResult:
    """The results of one context on a window's probes and on its next turns."""

    answers: list[float]
    distractors: list[float]
    texts: list[str]
    next_log_probs: Tensor | None
    """`[n, V]` of the next turns of the session."""

    def select(self, kept: list[bool]) -> ContextResult:
        """Returns the results of the probes that `kept` marks."""
        pick = [i for i, ok in enumerate(kept) if ok]
        answers, distractors = [self.answers[i] for i in pick], [self.distractors[i] for i in pick]
        return ContextResult(answers, distractors, [self.texts[i] for i in pick], self.next_log_probs)


def key(row: Row) -> Key:
    """Returns the identity of a measurement: a row of a known key need not be measured again."""
    return row.transcript, row.session_digest, row.window, row.probe, row.probe_digest, row.method, row.ratio


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
        none, _ = self._open(self._rest())
        blank = self._measure(none, max(self.setting.answer_tokens, LEAKED))  # who knows the answer is left out
        fair = [not self._knows(p, text) for p, text in zip(self.window.probes, blank.texts, strict=True)]
        self.window = replace(
            self.window,
            probes=tuple(p for p, ok in zip(self.window.probes, fair, strict=True) if ok),
            literals=tuple(x for x, ok in zip(self.window.literals, fair, strict=True) if ok),
        )
        pending = self.pending()
        if not self.window.probes or not pending:
            return
        full, seconds = self._open(CompactContext((token_segment(self.window.ids(), 0),), self.window.tokens))
        reference = self._measure(full)
        base = {"none_bytes": none.nbytes, "seconds_prefill": seconds, "reference": reference}
        yield from self._make_rows(FULL, 1.0, full, reference, 0.0, base)
        yield from self._make_rows(NONE, None, none, blank.select(fair), 0.0, base)
        del full
        shared: dict[str, SharedStudy] = {}
        for spec, ratio in pending:
            if spec in (FULL, NONE) or ratio is None:
                continue
            yield from self._measure_method(
                spec, ratio, shared.setdefault(split_gate_spec(spec)[0], SharedStudy()), base
            )

    def pending(self) -> list[tuple[str, float | None]]:
        """Returns the methods and ratios of which a row is missing."""
        return [(spec, ratio) for spec, ratio in self._plans() if self._missing(spec, ratio)]

    def _measure_method(self, spec: str, ratio: float, shared: SharedStudy, base: dict[str, Any]) -> Iterator[Row]:
        self.setting.progress("method", 0, 1, f"{spec} at {ratio:g}x")
        method, gate = split_gate_spec(spec)
        plan = Plan(method, ratio, self.setting.by_turn, Policy(pin=(), keep_recent=0), gate)
        try:
            context, live = compact_in_memory(
                list(self.window.parts), self.setting.engine, plan, self.setting.progress, shared
            )
        except (BadOption, Lost) as error:
            self.setting.note(f"{self.name} {self.window.id}: {spec} at {ratio:g}x is left out: {error}")
            return
        seconds, gate = float(context.evidence["seconds_compact"]), context.evidence.get("gate")
        yield from self._make_rows(spec, ratio, live, self._measure(live), seconds, base, gate)

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

    def _knows(self, probe: Probe, text: str) -> bool:
        reason = check_unknown(probe, text)
        if reason:
            self.setting.note(f"{probe.id} is left out: {reason}")
        return bool(reason)

    def _rest(self) -> CompactContext:
        """Returns the window without its middle, everything else at its own position."""
        kept = [_verbatim(part) for part in self.window.parts if not part.compact]
        return CompactContext(tuple(kept), self.window.tokens)

    def _open(self, context: CompactContext) -> tuple[KVContext, float]:
        began = time.perf_counter()
        live = self.setting.engine.open(context)
        return live, time.perf_counter() - began

    def _measure(self, live: KVContext, answer_tokens: int | None = None) -> ContextResult:
        tokenizer = self.setting.engine.model.tokenizer
        asked = [tuple(question_ids(tokenizer, p.question)) for p in self.window.probes]
        targets = [_ids(tokenizer, text) for p in self.window.probes for text in (p.answer, p.distractor)]
        scored = self.setting.engine.score(live, [Continuation(asked[i // 2], t) for i, t in enumerate(targets)])
        sums = [float(s.sum()) for s in scored]
        limit = self.setting.answer_tokens if answer_tokens is None else answer_tokens
        texts = (
            [tokenizer.decode(t) for t in self.setting.engine.answers(live, asked, limit)]
            if limit
            else [""] * len(asked)
        )
        return ContextResult(sums[0::2], sums[1::2], texts, self._next(live))

    def _next(self, live: KVContext) -> Tensor | None:
        ids = self.window.next_ids
        if len(ids) < 2:
            return None
        # the first next token is scaffolding that every context predicts; scoring starts behind it
        return self.setting.engine.next_logits(live, ids[:-1]).log_softmax(-1)

    def _make_rows(
        self,
        spec: str,
        ratio: float | None,
        live: KVContext,
        got: ContextResult,
        seconds: float,
        base: dict[str, Any],
        survived: Mapping[str, Any] | None = None,
    ) -> Iterator[Row]:
        common = {**self._identity(), **self._sizes(live, base), **self._fidelity(got, base["reference"])}
        common |= {"method": spec, "ratio": ratio, "seconds_compact": seconds}
        common["seconds_prefill"] = base["seconds_prefill"]
        tokenizer = self.setting.engine.model.tokenizer
        for i, probe in enumerate(self.window.probes):
            row = Row(
                **common,
                probe=probe.id,
                probe_digest=probe.digest,
                category=probe.category,
                question=probe.question,
                answer=probe.answer,
                distractor=probe.distractor,
                answer_logprob=got.answers[i],
                answer_tokens=len(_ids(tokenizer, probe.answer)),
                distractor_logprob=got.distractors[i],
                distractor_tokens=len(_ids(tokenizer, probe.distractor)),
                text=got.texts[i],
                keyword=keyword_hit(got.texts[i], probe.accept) if self.setting.answer_tokens else None,
                **_gate_verdict(survived, self.window.literals[i]),
            )
            if key(row) not in self.setting.known:
                yield row

    def _identity(self) -> dict[str, Any]:
        model = self.setting.engine.model
        return {
            "version": holdfast.__version__,
            "commit": _commit(),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "config": self.setting.config,
            "model": model.name,
            "model_digest": model.digest,
            "tokenizer_digest": model.tokenizer_digest,
            "seed": self.setting.seed,
            "transcript": self.name,
            "session_digest": self.session_digest,
            "window": self.window.id,
        }

    def _sizes(self, live: KVContext, base: dict[str, Any]) -> dict[str, Any]:
        model, window = self.setting.engine.model, self.window
        span = sum(len(p) for p in window.parts if p.compact)
        held = live.nbytes - base["none_bytes"]
        full = full_bytes(model, window.tokens)
        span_full = full - base["none_bytes"]
        return {
            "tokens_full": window.tokens,
            "tokens_span": span,
            "slots": round(span * held / span_full, 3) if span_full else 0.0,
            "bytes_full": full,
            "bytes": live.nbytes,
            "bytes_span_full": span_full,
            "bytes_span": held,
        }

    def _fidelity(self, got: ContextResult, reference: ContextResult) -> dict[str, Any]:
        if got.next_log_probs is None or reference.next_log_probs is None:
            return dict.fromkeys(("kl", "top1", "next_action_logprob", "next_action_tokens"))
        ours, theirs = got.next_log_probs, reference.next_log_probs
        targets = torch.tensor(self.window.next_ids[1:], device=ours.device)[:, None]
        action = max(0, self.window.action - 1)
        return {
            "kl": max(0.0, float((theirs.exp() * (theirs - ours)).sum(-1).mean())),
            "top1": float((ours.argmax(-1) == theirs.argmax(-1)).float().mean()),
            "next_action_logprob": float(ours.gather(1, targets)[:action].sum()) if action else None,
            "next_action_tokens": min(action, len(targets)) if action else None,
        }


def _gate_verdict(gate: Mapping[str, Any] | None, literal: tuple[int, int]) -> dict[str, Any]:
    """Returns the gate's verdict on the tokens of a probe's literal, and on the user's prohibitions."""
    if gate is None:
        return {}
    first, last = literal
    nats = sum(fall for at, fall in gate["falls"] if first <= at < last)
    lost = any(a < last and first < b for a, b in gate["spans_lost"])
    forbidden = [fact["text"] for fact in gate["lost"] if fact["kind"] == FactKind.PROHIBITION]
    return {"gate_nats": nats, "gate_lost": lost, "prohibitions_lost": forbidden}


def _verbatim(part: Part) -> Any:
    return token_segment([i for b in part.blocks for i in b.ids], part.start, tuple(b.origin for b in part.blocks))


def _ids(tokenizer: Any, text: str) -> tuple[int, ...]:
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


@cache
def _commit() -> str:
    """Returns the commit of the installed tree, or an empty string outside a git checkout."""
    here = Path(__file__).parent
    try:
        done = subprocess.run(
            ["git", "rev-parse", "--short=12", "HEAD"], cwd=here, capture_output=True, text=True, check=False
        )
    except OSError:  # no git here
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
