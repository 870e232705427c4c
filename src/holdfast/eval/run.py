"""Measure methods on sessions: one row per (transcript, window, method, ratio, probe), written as it is known.

A run that was interrupted goes on where it stopped: rows that the file already holds are not measured again.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence, Set
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from holdfast.blocks.render import render
from holdfast.compaction.compact import ROOM, load, session_digest
from holdfast.engine.local import LocalEngine
from holdfast.errors import BadInput, BadOption, Failed
from holdfast.eval.measure import Key, Note, RunSettings, WindowRun, key
from holdfast.eval.probes import Probe
from holdfast.eval.rows import FULL, NONE, Row, read_rows
from holdfast.eval.score import SAME
from holdfast.eval.windows import NEXT_TOKENS, Window, locate, turn_windows, windows
from holdfast.gate.latent.gate import split_gate_spec
from holdfast.methods.registry import build
from holdfast.parallel import RayCluster, Work, run_tasks
from holdfast.progress import Progress, quiet
from holdfast.storage.json_lines import append_line
from holdfast.transcript.read import read

ANSWER_TOKENS = 24


@dataclass(frozen=True)
class Run:
    """The sessions, probes, methods and ratios that are measured."""

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


@dataclass(frozen=True)
class Job:
    """One window of one session, as it travels to where it is measured."""

    name: str
    session_digest: str
    window: Window


def transcripts_in(path: str | Path) -> tuple[Path, ...]:
    """Returns a file, or the files of a folder in order of name. Raises BadInput if there is none."""
    path = Path(path)
    found = tuple(sorted(p for p in path.iterdir() if p.is_file())) if path.is_dir() else (path,)
    if not found or not all(p.exists() for p in found):
        raise BadInput(f"{path}: no transcripts there; give a file or a folder of files")
    return found


def measure(
    run: Run,
    engine: LocalEngine,
    out: Path,
    progress: Progress = quiet,
    note: Note = print,
    cluster: RayCluster | None = None,
) -> int:
    """Appends the missing rows to `out`, and returns how many; `note` gets each part that was left out, and why.

    A cluster measures windows on many machines, each worker with a model of its own on one thread. Raises BadInput when
    there is nothing to measure, and BadOption for a method, a window or an `out` that does not fit.
    """
    run = replace(run, threads=1) if cluster else run
    for spec in run.latent:
        if spec not in (FULL, NONE):
            build(split_gate_spec(spec)[0])  # an unknown method fails before anything is measured
    check_size(run, engine)
    written = _read_known_keys(engine, _config(run, engine), out, note)
    before = len(written)
    setting = _setting(run, engine, frozenset(written), progress)
    jobs = list(_jobs(run, engine, note))
    if not jobs:
        raise BadInput("nothing to measure: no probe could be placed in a window of these transcripts")
    jobs = [job for job in jobs if _window_run(setting, job).pending()]
    opened = _remote_work(run, engine, setting.known) if cluster else lambda: partial(_rows, setting)
    with closing(run_tasks(jobs, opened, cluster)) as everything:
        for number, done in enumerate(everything):
            name = f"{done.task.name} {done.task.window.id}"
            progress("window", number, len(jobs), name)
            if done.failure:
                note(f"{name}: left for the next run: {done.failure}")
            for row in done.results:
                if isinstance(row, str):
                    note(row)
                elif key(row) not in written:
                    append_line(out, row)
                    written.add(key(row))
    progress("window", len(jobs), len(jobs), "")
    return len(written) - before


def _rows(setting: RunSettings, job: Job) -> Iterator[Row | str]:
    """Yields the missing rows of a window, and between them the notes about it."""
    told: list[str] = []
    for row in _window_run(replace(setting, note=told.append), job).rows():
        yield from told
        yield row
        told.clear()
    yield from told


def _window_run(setting: RunSettings, job: Job) -> WindowRun:
    return WindowRun(setting, job.name, job.session_digest, job.window)


def _setting(run: Run, engine: LocalEngine, known: Set[Key], progress: Progress) -> RunSettings:
    config = _config(run, engine)
    return RunSettings(
        engine, run.latent, run.ratios, run.by_turn, config, run.seed, run.answer_tokens, known, progress, print
    )


@dataclass(frozen=True)
class RemoteWork:
    """The work of a remote worker, which is called there: the run without its sessions, and the source of its model."""

    run: Run
    known: Set[Key]
    model: str
    source: str
    """The model's name, or the absolute path of its folder."""
    digest: str
    dtype: str
    device: str

    def __call__(self) -> Work[Job, Row | str]:
        """Loads the model. Raises Failed if its weights are not those of the driver."""
        model = load(self.source, dtype=self.dtype, device=self.device).model
        if model.digest != self.digest:
            raise Failed(
                f"a worker found other weights for {self.model} ({model.digest}) than this process ({self.digest}); "
                "give every node the same files"
            )
        engine = LocalEngine(replace(model, name=self.model))
        return partial(_rows, _setting(self.run, engine, self.known, quiet))


def _remote_work(run: Run, engine: LocalEngine, known: Set[Key]) -> RemoteWork:
    model, config = engine.model, _config(run, engine)
    source = str(Path(model.name).absolute()) if Path(model.name).is_dir() else model.name
    small = replace(run, transcripts=(), probes=())
    return RemoteWork(small, known, model.name, source, model.digest, config["dtype"], config["device"])


def check_size(run: Run, engine: LocalEngine) -> None:
    """Raises BadOption if a window with a question and the next turns is more than the model reads."""
    most = engine.model.max_tokens - NEXT_TOKENS - ROOM
    if run.window > most:
        raise BadOption(f"--window {run.window} is too long: {engine.model.name} reads windows of up to {most} tokens")


def _read_known_keys(engine: LocalEngine, config: dict[str, Any], out: Path, note: Note) -> set[Key]:
    """Returns the keys of the rows in `out`. Raises BadOption if they were measured in another way."""
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


def _jobs(run: Run, engine: LocalEngine, note: Note) -> Iterator[Job]:
    sampled = _sample_probes(run)
    wanted = {p.transcript for p in sampled}
    names = {path.name for path in run.transcripts}
    for missing in sorted(wanted - names):
        note(f"{missing}: its probes are left out, there is no such transcript here")
    for path in run.transcripts:
        mine = [p for p in sampled if p.transcript == path.name]
        try:
            yield from _cut(path, mine, run, engine, note) if mine else ()
        except BadInput as error:
            note(f"{path.name}: its {len(mine)} probes are left out: {error}")


def _cut(path: Path, probes: Sequence[Probe], run: Run, engine: LocalEngine, note: Note) -> Iterator[Job]:
    transcript = read(path)
    rendered = render(transcript, engine.model.tokenizer)
    located, missing_evidence = locate(probes, rendered)
    choose = turn_windows if run.span == "turn" else windows
    cut, dropped = choose(transcript, rendered, located, run.window)
    for probe, reason in (*missing_evidence, *dropped):
        note(f"{probe.id} is left out: {reason}")
    yield from (Job(path.name, session_digest(rendered), window) for window in cut)


def _sample_probes(run: Run) -> Sequence[Probe]:
    names = {path.name for path in run.transcripts}
    here = [p for p in run.probes if p.transcript in names] or list(run.probes)
    if run.limit is None or run.limit >= len(here):
        return here
    if run.limit < 1:
        raise BadOption(f"--limit must be at least 1, got {run.limit}")
    chosen = random.Random(run.seed).sample(range(len(here)), run.limit)
    return [here[i] for i in sorted(chosen)]
