"""Measure methods on sessions: one row per (transcript, window, method, ratio, probe), written as it is known.

A run that was interrupted goes on where it stopped: rows that the file already holds are not measured again.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence, Set
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

import torch

from holdfast.blocks.render import render
from holdfast.compaction.compact import ROOM, load, session_digest
from holdfast.engine.local import LocalEngine
from holdfast.errors import BadInput, BadOption, Failed
from holdfast.eval.asking import Limits, Openings
from holdfast.eval.later_action import NEXT_TOKENS
from holdfast.eval.measure import Key, Note, RunSettings, WindowRun, key, place
from holdfast.eval.probes import Probe
from holdfast.eval.rows import FULL, NONE, Row, read_rows
from holdfast.eval.score import SAME
from holdfast.eval.windows import Window, locate, turn_windows, windows
from holdfast.gate.latent.gate import split_gate_spec
from holdfast.methods.registry import build
from holdfast.parallel import RayCluster, Work, run_tasks
from holdfast.progress import Progress, quiet
from holdfast.storage.json_lines import append_line, has_line
from holdfast.transcript.read import read

ANSWER_TOKENS = ACTION_TOKENS = 48


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
    """Most tokens of a greedy answer, in which the keywords are looked for; 0 asks for none, which is faster."""
    action_tokens: int = ACTION_TOKENS
    """Most tokens of a greedy next action; 0 asks for none."""
    action_passes: int = 0
    """Passes of the model for an action of a compact context; after 1 it is known whether it is the full context's (the
    tool, and the whole call), but not F1. 0 is as many as it takes."""
    later: bool = True
    """Measure the action behind more turns too, which every context has to read."""
    windows: int | None = None
    """Measure only so many windows, taken from the sessions in turn; more of them later go on from there."""
    threads: int = field(default_factory=torch.get_num_threads)
    allow_trained: bool = False
    """Measure a method also on sessions that its weights were trained on."""


@dataclass(frozen=True)
class Job:
    """One window of one session, as it travels to where it is measured."""

    name: str
    session_digest: str
    window: Window

    def without(self, left_out: Set[Key]) -> Job:
        """Returns the job without the probes that an earlier run left out."""
        here = (self.name, self.session_digest, self.window.id)
        kept = [(*here, p.id, p.digest) not in left_out for p in self.window.probes]
        return replace(self, window=self.window.select(kept))


def transcripts_in(*paths: str | Path) -> tuple[Path, ...]:
    """Returns files, and of folders the files in them, in order of name. Raises BadInput if there is none.

    Raises BadInput too for two files of one name, because probes and rows know a session by its name.
    """
    found: dict[str, Path] = {}
    for path in map(Path, paths):
        here = tuple(sorted(p for p in path.iterdir() if p.is_file())) if path.is_dir() else (path,)
        if not here or not all(p.exists() for p in here):
            raise BadInput(f"{path}: no transcripts there; give a file or a folder of files")
        for file in here:
            if file.name in found:
                raise BadInput(f"{file} and {found[file.name]} have one name; give each session a name of its own")
            found[file.name] = file
    return tuple(found.values())


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
    rows = _read_known_rows(engine, _config(run, engine), out, note)
    written, left_out = {key(row) for row in rows}, {place(row) for row in rows if row.left_out}
    before = len(written)
    setting = _setting(run, engine, frozenset(written), progress)
    jobs = list(_jobs(run, engine, note))
    if not jobs:
        raise BadInput("nothing to measure: no probe could be placed in a window of these transcripts")
    check_trained(run, jobs)
    jobs = [job.without(left_out) for job in jobs]
    jobs = [job for job in jobs if _window_run(setting, job).pending()]
    opened = _remote_work(run, engine, setting.known) if cluster else lambda: partial(_rows, setting)
    with closing(run_tasks(jobs, opened, cluster)) as everything:
        for number, done in enumerate(everything):
            name = f"{done.task.name} {done.task.window.id}"
            progress("window", number, len(jobs), name)
            if done.failure:
                note(f"{name}: left for the next run: {done.failure}")
            costs: dict[tuple[str, float | None], str] = {}
            for row in done.results:
                if isinstance(row, str):
                    note(row)
                elif key(row) not in written:
                    append_line(out, row)
                    written.add(key(row))
                    costs[row.method, row.ratio] = _describe_cost(row)
            note(f"{number + 1}/{len(jobs)} {name}: seconds, compacting + asking: {', '.join(costs.values())}")
    progress("window", len(jobs), len(jobs), "")
    return len(written) - before


def _describe_cost(row: Row) -> str:
    spent = f"{row.seconds_prefill if row.method == FULL else row.seconds_compact:.1f} + {row.seconds_measure:.1f}"
    return f"{row.method}{'' if row.ratio in (None, 1) else f' {row.ratio:g}x'} {spent}"


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
    limits = Limits(run.answer_tokens, run.action_tokens, run.action_passes)
    openings = Openings.of(engine.model.tokenizer)
    return RunSettings(
        engine, run.latent, run.ratios, run.by_turn, config, run.seed, limits, openings, known, progress, print
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


def check_trained(run: Run, jobs: Sequence[Job]) -> None:
    """Raises BadInput if a method was trained on one of the sessions that would judge it, unless that is allowed."""
    for spec in run.latent:
        if run.allow_trained or spec in (FULL, NONE):
            continue
        seen: frozenset[str] = getattr(build(split_gate_spec(spec)[0]), "trained_on", frozenset())
        if names := sorted({job.name for job in jobs if job.session_digest in seen}):
            raise BadInput(
                f"{spec} was trained on {', '.join(names)}, which would judge it; give other sessions, or "
                "--allow-trained to measure what it remembers"
            )


def check_size(run: Run, engine: LocalEngine) -> None:
    """Raises BadOption if a window with a question and the next turns is more than the model reads."""
    most = engine.model.max_tokens - NEXT_TOKENS - ROOM
    if run.window > most:
        raise BadOption(f"--window {run.window} is too long: {engine.model.name} reads windows of up to {most} tokens")


def _read_known_rows(engine: LocalEngine, config: dict[str, Any], out: Path, note: Note) -> list[Row]:
    """Returns the rows in `out`. Raises BadOption if they were measured in another way."""
    if not out.parent.is_dir() or out.is_dir():
        raise BadInput(f"{out}: rows need a file in a folder that exists")
    if not has_line(out):
        return []
    rows = read_rows(out, warn=note)
    ours = {name: config.get(name) for name in SAME} | {"model": engine.model.digest}
    for row in rows:
        theirs = {name: row.config.get(name) for name in SAME} | {"model": row.model_digest}
        if other := [f"{name} {theirs[name]!r} and not {ours[name]!r}" for name in ours if theirs[name] != ours[name]]:
            raise BadOption(f"{out} holds rows measured with {', '.join(other)}; give another --out")
    return rows


def _config(run: Run, engine: LocalEngine) -> dict[str, Any]:
    model = engine.model
    return {
        "window": run.window if run.span == "window" else f"one turn of up to {run.window}",
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": str(model.device),
        "threads": run.threads,
        "by_turn": run.by_turn,
        "answer_tokens": run.answer_tokens,
        "action_tokens": run.action_tokens,
        **({"action_passes": run.action_passes} if run.action_passes else {}),
    }


def _jobs(run: Run, engine: LocalEngine, note: Note) -> Iterator[Job]:
    sampled = _sample_probes(run)
    wanted = {p.transcript for p in sampled}
    names = {path.name for path in run.transcripts}
    for missing in sorted(wanted - names):
        note(f"{missing}: its probes are left out, there is no such transcript here")
    cut = []
    for path in run.transcripts:
        mine = [p for p in sampled if p.transcript == path.name]
        try:
            cut.append(list(_cut(path, mine, run, engine, note)) if mine else [])
        except BadInput as error:
            note(f"{path.name}: its {len(mine)} probes are left out: {error}")
    # in turn, so that a run that is stopped has measured a bit of every session
    in_turn = (job for some in zip_longest(*cut) for job in some if job is not None)
    yield from islice(in_turn, run.windows)


def _cut(path: Path, probes: Sequence[Probe], run: Run, engine: LocalEngine, note: Note) -> Iterator[Job]:
    transcript = read(path)
    rendered = render(transcript, engine.model.tokenizer)
    located, missing_evidence = locate(probes, rendered)
    choose = turn_windows if run.span == "turn" else windows
    cut, dropped = choose(transcript, rendered, located, run.window)
    for probe, reason in (*missing_evidence, *dropped):
        note(f"{probe.id} is left out: {reason}")
    yield from (Job(path.name, session_digest(rendered), _fit(window, run, engine)) for window in cut)


def _fit(window: Window, run: Run, engine: LocalEngine) -> Window:
    """Returns the window, without a later action that is not asked for or stands beyond the model's positions."""
    later, most = window.later, engine.model.max_tokens - NEXT_TOKENS - ROOM
    fits = run.later and later is not None and window.tokens + len(later.before) <= most
    return window if fits else replace(window, later=None)


def _sample_probes(run: Run) -> Sequence[Probe]:
    names = {path.name for path in run.transcripts}
    here = [p for p in run.probes if p.transcript in names] or list(run.probes)
    if run.limit is None or run.limit >= len(here):
        return here
    if run.limit < 1:
        raise BadOption(f"--limit must be at least 1, got {run.limit}")
    chosen = random.Random(run.seed).sample(range(len(here)), run.limit)
    return [here[i] for i in sorted(chosen)]
