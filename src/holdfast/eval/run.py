"""Measure methods on sessions: one row per (transcript, window, method, ratio, probe), written as it is known.

A run that was interrupted goes on where it stopped: rows that the file already holds are not measured again.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from holdfast.blocks.render import render
from holdfast.engine.local import LocalEngine
from holdfast.errors import BadInput, BadOption
from holdfast.eval.measure import Key, Note, Setting, Windowed, key
from holdfast.eval.probes import Probe
from holdfast.eval.rows import FULL, NONE, append_row, read_rows
from holdfast.eval.score import SAME
from holdfast.eval.windows import NEXT_TOKENS, locate, turn_windows, windows
from holdfast.gate.gate import split
from holdfast.latent import ROOM, session_digest
from holdfast.methods.base import Progress, quiet
from holdfast.methods.registry import build
from holdfast.transcript.read import read

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
    answer_tokens: int = ANSWER_TOKENS
    """Most tokens of a greedy answer, in which the keywords are looked for; 0 asks for none, which is much faster."""
    threads: int = field(default_factory=torch.get_num_threads)


def transcripts_in(path: str | Path) -> tuple[Path, ...]:
    """A file, or the files of a folder in order of name. Raises BadInput where there is none."""
    path = Path(path)
    found = tuple(sorted(p for p in path.iterdir() if p.is_file())) if path.is_dir() else (path,)
    if not found or not all(p.exists() for p in found):
        raise BadInput(f"{path}: no transcripts there; give a file or a folder of files")
    return found


def measure(run: Run, engine: LocalEngine, out: Path, progress: Progress = quiet, note: Note = print) -> int:
    """Append the missing rows to `out` and return how many were written; `note` gets what was left out and why.

    Raises BadInput when there is nothing to measure, and BadOption for a method, a window or an `out` that does not
    fit.
    """
    for spec in run.latent:
        if spec not in (FULL, NONE):
            build(split(spec)[0])  # an unknown method fails before anything is measured
    check_size(run, engine)
    config = _config(run, engine)
    known = _known(engine, config, out, note)
    setting = Setting(
        engine, run.latent, run.ratios, run.by_turn, config, run.seed, run.answer_tokens, known, progress, note
    )
    jobs = list(_jobs(run, setting))
    if not jobs:
        raise BadInput("nothing to measure: no probe could be placed in a window of these transcripts")
    written = 0
    for number, windowed in enumerate(jobs):
        progress("window", number, len(jobs), f"{windowed.name} {windowed.window.id}")
        for row in windowed.rows():
            append_row(out, row)
            written += 1
    progress("window", len(jobs), len(jobs), "")
    return written


def check_size(run: Run, engine: LocalEngine) -> None:
    """Raise BadOption when a window with a question and the next turns is more than the model reads."""
    most = engine.model.max_tokens - NEXT_TOKENS - ROOM
    if run.window > most:
        raise BadOption(f"--window {run.window} is too long: {engine.model.name} reads windows of up to {most} tokens")


def _known(engine: LocalEngine, config: dict[str, Any], out: Path, note: Note) -> set[Key]:
    """What `out` already holds. Raises BadOption when it was measured in another way."""
    if not out.parent.is_dir() or out.is_dir():
        raise BadInput(f"{out}: rows need a file in a folder that exists")
    if not out.exists() or b"\n" not in out.read_bytes():  # nothing, or half a row of a run that was killed
        return set()
    rows = read_rows(out, warn=note)
    ours = {name: config[name] for name in SAME} | {"model": engine.model.digest}
    for row in rows:
        theirs = {name: row.config.get(name) for name in SAME} | {"model": row.model_digest}
        if other := [f"{name} {theirs[name]!r} and not {ours[name]!r}" for name in ours if theirs[name] != ours[name]]:
            raise BadOption(f"{out} holds rows measured with {', '.join(other)}; give another --out")
    return {key(row) for row in rows}


def _config(run: Run, engine: LocalEngine) -> dict[str, Any]:
    model = engine.model
    return {
        "window": run.window if run.span == "window" else f"one turn of up to {run.window}",
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": str(model.device),
        "threads": run.threads,
        "by_turn": run.by_turn,
    }


def _jobs(run: Run, setting: Setting) -> Iterator[Windowed]:
    sampled = _sampled(run)
    wanted = {p.transcript for p in sampled}
    names = {path.name for path in run.transcripts}
    for missing in sorted(wanted - names):
        setting.note(f"{missing}: its probes are left out, there is no such transcript here")
    for path in run.transcripts:
        mine = [p for p in sampled if p.transcript == path.name]
        try:
            yield from _windowed(path, mine, run, setting) if mine else ()
        except BadInput as error:
            setting.note(f"{path.name}: its {len(mine)} probes are left out: {error}")


def _windowed(path: Path, probes: Sequence[Probe], run: Run, setting: Setting) -> Iterator[Windowed]:
    transcript = read(path)
    rendered = render(transcript, setting.engine.model.tokenizer)
    located, missing_evidence = locate(probes, rendered)
    choose = turn_windows if run.span == "turn" else windows
    cut, dropped = choose(transcript, rendered, located, run.window)
    for probe, reason in (*missing_evidence, *dropped):
        setting.note(f"{probe.id} is left out: {reason}")
    yield from (Windowed(setting, path.name, session_digest(rendered), window) for window in cut)


def _sampled(run: Run) -> Sequence[Probe]:
    names = {path.name for path in run.transcripts}
    here = [p for p in run.probes if p.transcript in names] or list(run.probes)
    if run.limit is None or run.limit >= len(here):
        return here
    if run.limit < 1:
        raise BadOption(f"--limit must be at least 1, got {run.limit}")
    chosen = random.Random(run.seed).sample(range(len(here)), run.limit)
    return [here[i] for i in sorted(chosen)]
