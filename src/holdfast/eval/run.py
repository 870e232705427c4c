"""Measure methods on sessions: one row per (transcript, window, method, ratio, probe), written as it is known.

A run that was interrupted goes on where it stopped: rows that the file already holds are not measured again.
"""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import holdfast
from holdfast.blocks.render import question_ids, render
from holdfast.context.segments import CompactContext, tokens
from holdfast.engine.live import Live
from holdfast.engine.local import Continuation, LocalEngine
from holdfast.errors import BadInput, BadOption, BadTranscript
from holdfast.eval.metrics import keyword_hit
from holdfast.eval.probes import Probe, known_without
from holdfast.eval.rows import FULL, NONE, Row, append_row, read_rows
from holdfast.eval.score import SAME
from holdfast.eval.windows import Window, locate, turn_windows, windows
from holdfast.methods.base import Progress, quiet
from holdfast.methods.registry import build
from holdfast.session import Part, Plan, Policy, Shared, compact_parts, full_bytes
from holdfast.transcript.read import read

Note = Callable[[str], None]
ANSWER_TOKENS = 24


@dataclass(frozen=True)
class Run:
    """What is measured."""

    transcripts: tuple[Path, ...]
    probes: tuple[Probe, ...]
    latent: tuple[str, ...]
    ratios: tuple[float, ...]
    window: int = 4096
    """Tokens of a window; with span `turn`, of the longest turn that is measured."""
    span: str = "window"
    """`window`: as many turns as fit; `turn`: the one turn that holds the evidence."""
    limit: int | None = None
    """Measure only so many probes, drawn by `seed`."""
    seed: int = 0
    by_turn: bool | None = None
    threads: int = field(default_factory=torch.get_num_threads)


@dataclass(frozen=True)
class Measured:
    """What one context gives on a window's probes and on its next turns."""

    answers: list[float]
    distractors: list[float]
    texts: list[str]
    next_log_probs: Tensor | None
    """`[n, V]` of the next turns of the session."""


def transcripts_in(path: str | Path) -> tuple[Path, ...]:
    """A file, or the files of a folder in order of name. Raises BadInput where there is none."""
    path = Path(path)
    found = tuple(sorted(p for p in path.iterdir() if p.is_file())) if path.is_dir() else (path,)
    if not found or not all(p.exists() for p in found):
        raise BadInput(f"{path}: no transcripts there; give a file or a folder of files")
    return found


def measure(run: Run, engine: LocalEngine, out: Path, progress: Progress = quiet, note: Note = print) -> int:
    """Append the missing rows to `out` and return how many were written; `note` gets what was left out and why."""
    for spec in run.latent:
        if spec not in (FULL, NONE):
            build(spec)  # an unknown method fails before anything is measured
    known = _known(run, engine, out)
    written = 0
    jobs = list(_jobs(run, engine, note))
    for number, (name, window) in enumerate(jobs, 1):
        progress("window", number - 1, len(jobs), f"{name} {window.id}")
        for row in _Windowed(run, engine, name, window, known, progress, note).rows():
            append_row(out, row)
            written += 1
    progress("window", len(jobs), len(jobs), "")
    return written


def _known(run: Run, engine: LocalEngine, out: Path) -> set[tuple[Any, ...]]:
    """What `out` already holds. Raises BadOption when it was measured in another way."""
    if not out.exists() or not out.stat().st_size:
        return set()
    rows, config = read_rows(out), _config(run, engine)
    for row in rows:
        theirs = {key: row.config.get(key) for key in SAME} | {"model": row.model_digest}
        ours = {key: config[key] for key in SAME} | {"model": engine.model.digest}
        if other := [f"{key} {theirs[key]!r} and not {ours[key]!r}" for key in ours if theirs[key] != ours[key]]:
            raise BadOption(f"{out} holds rows measured with {', '.join(other)}; give another --out")
    return {_key(row) for row in rows}


def _key(row: Row) -> tuple[Any, ...]:
    return row.transcript, row.window, row.probe, row.method, row.ratio


def _config(run: Run, engine: LocalEngine) -> dict[str, Any]:
    model = engine.model
    return {
        "window": run.window if run.span == "window" else f"one turn of up to {run.window}",
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": str(model.device),
        "threads": run.threads,
        "by_turn": run.by_turn,
    }


def _jobs(run: Run, engine: LocalEngine, note: Note) -> Iterator[tuple[str, Window]]:
    sampled = _sampled(run)
    wanted = {p.transcript for p in sampled}
    names = {path.name for path in run.transcripts}
    for missing in sorted(wanted - names):
        note(f"{missing}: its probes are left out, there is no such transcript here")
    for path in run.transcripts:
        mine = [p for p in sampled if p.transcript == path.name]
        if not mine:
            continue
        try:
            transcript = read(path)
        except BadTranscript as error:
            note(f"{path.name}: its {len(mine)} probes are left out: {error}")
            continue
        rendered = render(transcript, engine.model.tokenizer)
        located, missing_evidence = locate(mine, rendered)
        choose = turn_windows if run.span == "turn" else windows
        cut, dropped = choose(transcript, rendered, located, run.window)
        for probe, reason in (*missing_evidence, *dropped):
            note(f"{probe.id} is left out: {reason}")
        yield from ((path.name, window) for window in cut)


def _sampled(run: Run) -> Sequence[Probe]:
    names = {path.name for path in run.transcripts}
    here = [p for p in run.probes if p.transcript in names] or list(run.probes)
    if run.limit is None or run.limit >= len(here):
        return here
    if run.limit < 1:
        raise BadOption(f"--limit must be at least 1, got {run.limit}")
    chosen = random.Random(run.seed).sample(range(len(here)), run.limit)
    return [here[i] for i in sorted(chosen)]


@dataclass
class _Windowed:
    """All methods on one window."""

    run: Run
    engine: LocalEngine
    name: str
    window: Window
    known: set[tuple[Any, ...]]
    progress: Progress
    note: Note

    def rows(self) -> Iterator[Row]:
        pending = [(spec, ratio) for spec, ratio in self._plans() if self._missing(spec, ratio)]
        if not pending:
            return
        none, _ = self._opened(self._rest())
        blank = self._measured(none)
        probes = [p for p, text in zip(self.window.probes, blank.texts, strict=True) if not self._knows(p, text)]
        if not probes:
            return
        self.window = Window(**{**vars(self.window), "probes": tuple(probes)})
        full, seconds = self._opened(CompactContext((tokens(self.window.ids(), 0),), self.window.tokens))
        reference = self._measured(full)
        base = {"none_bytes": none.nbytes, "seconds_prefill": seconds, "reference": reference}
        yield from self._written(FULL, 1.0, full, reference, 0.0, base)
        yield from self._written(NONE, None, none, self._measured(none), 0.0, base)
        del full
        shared: dict[str, Shared] = {}
        for spec, ratio in pending:
            if spec in (FULL, NONE) or ratio is None:
                continue
            yield from self._compacted(spec, ratio, shared.setdefault(spec, Shared()), base)

    def _compacted(self, spec: str, ratio: float, shared: Shared, base: dict[str, Any]) -> Iterator[Row]:
        self.progress("method", 0, 1, f"{spec} at {ratio:g}x")
        plan = Plan(spec, ratio, self.run.by_turn, Policy(pin=(), keep_recent=0))
        try:
            context = compact_parts(list(self.window.parts), self.engine, plan, self.progress, shared)
        except BadOption as error:
            self.note(f"{self.name} {self.window.id}: {spec} at {ratio:g}x is left out: {error}")
            return
        live, _ = self._opened(context)
        yield from self._written(
            spec, ratio, live, self._measured(live), float(context.evidence["seconds_compact"]), base
        )

    def _plans(self) -> Iterator[tuple[str, float | None]]:
        yield FULL, 1.0
        yield NONE, None
        for spec in dict.fromkeys(self.run.latent):
            if spec not in (FULL, NONE):
                yield from ((spec, ratio) for ratio in self.run.ratios)

    def _missing(self, spec: str, ratio: float | None) -> bool:
        keys = ((self.name, self.window.id, p.id, spec, ratio) for p in self.window.probes)
        return any(key not in self.known for key in keys)

    def _knows(self, probe: Probe, text: str) -> bool:
        reason = known_without(probe, text)
        if reason:
            self.note(f"{probe.id} is left out: {reason}")
        return bool(reason)

    def _rest(self) -> CompactContext:
        """The window without its middle, everything else where it was."""
        kept = [_verbatim(part) for part in self.window.parts if not part.compact]
        return CompactContext(tuple(kept), self.window.tokens)

    def _opened(self, context: CompactContext) -> tuple[Live, float]:
        began = time.perf_counter()
        live = self.engine.open(context)
        return live, time.perf_counter() - began

    def _measured(self, live: Live) -> Measured:
        tokenizer = self.engine.model.tokenizer
        asked = [tuple(question_ids(tokenizer, p.question)) for p in self.window.probes]
        targets = [[_ids(tokenizer, text) for p in self.window.probes for text in (p.answer, p.distractor)]][0]
        scored = self.engine.score(live, [Continuation(asked[i // 2], t) for i, t in enumerate(targets)])
        sums = [float(s.sum()) for s in scored]
        texts = [tokenizer.decode(t) for t in self.engine.answers(live, asked, ANSWER_TOKENS)]
        return Measured(sums[0::2], sums[1::2], texts, self._next(live))

    def _next(self, live: Live) -> Tensor | None:
        ids = self.window.next_ids
        if len(ids) < 2:
            return None
        # the first next token is scaffolding that every context predicts; scoring starts behind it
        return self.engine.next_logits(live, ids[:-1]).log_softmax(-1)

    def _written(
        self, spec: str, ratio: float | None, live: Live, got: Measured, seconds: float, base: dict[str, Any]
    ) -> Iterator[Row]:
        common = {**self._identity(), **self._sizes(live, base), **self._fidelity(got, base["reference"])}
        common |= {"method": spec, "ratio": ratio, "seconds_compact": seconds}
        common["seconds_prefill"] = base["seconds_prefill"]
        tokenizer = self.engine.model.tokenizer
        for i, probe in enumerate(self.window.probes):
            row = Row(
                **common,
                probe=probe.id,
                category=probe.category,
                question=probe.question,
                answer=probe.answer,
                distractor=probe.distractor,
                answer_logprob=got.answers[i],
                answer_tokens=len(_ids(tokenizer, probe.answer)),
                distractor_logprob=got.distractors[i],
                distractor_tokens=len(_ids(tokenizer, probe.distractor)),
                text=got.texts[i],
                keyword=keyword_hit(got.texts[i], probe.accept),
            )
            if _key(row) not in self.known:
                yield row

    def _identity(self) -> dict[str, Any]:
        model = self.engine.model
        return {
            "version": holdfast.__version__,
            "commit": _commit(),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "config": _config(self.run, self.engine),
            "model": model.name,
            "model_digest": model.digest,
            "tokenizer_digest": model.tokenizer_digest,
            "seed": self.run.seed,
            "transcript": self.name,
            "window": self.window.id,
        }

    def _sizes(self, live: Live, base: dict[str, Any]) -> dict[str, Any]:
        model, window = self.engine.model, self.window
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

    def _fidelity(self, got: Measured, reference: Measured) -> dict[str, Any]:
        if got.next_log_probs is None or reference.next_log_probs is None:
            return dict.fromkeys(("kl", "top1", "next_action_logprob", "next_action_tokens"))
        ours, theirs = got.next_log_probs, reference.next_log_probs
        targets = torch.tensor(self.window.next_ids[1:], device=ours.device)[:, None]
        action = max(1, self.window.action - 1)
        return {
            "kl": max(0.0, float((theirs.exp() * (theirs - ours)).sum(-1).mean())),
            "top1": float((ours.argmax(-1) == theirs.argmax(-1)).float().mean()),
            "next_action_logprob": float(ours.gather(1, targets)[:action].sum()),
            "next_action_tokens": min(action, len(targets)),
        }


def _verbatim(part: Part) -> Any:
    return tokens([i for b in part.blocks for i in b.ids], part.start, tuple(b.origin for b in part.blocks))


def _ids(tokenizer: Any, text: str) -> tuple[int, ...]:
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


def _commit() -> str:
    """The commit of the installed tree, or nothing where it is not a git checkout."""
    here = Path(__file__).parent
    try:
        done = subprocess.run(
            ["git", "rev-parse", "--short=12", "HEAD"], cwd=here, capture_output=True, text=True, check=False
        )
    except OSError:  # no git here
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
