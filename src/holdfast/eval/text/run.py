"""Measure text methods on sessions: compact, ask every probe, write a row each. Resumable, and bounded in its calls."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence, Set
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from random import Random

from holdfast import __version__
from holdfast.engine.chat import Chat
from holdfast.errors import BadOption, Failed, HoldfastError
from holdfast.eval.metrics import exact_match, f1, keyword_hit
from holdfast.eval.rows import FULL, read_lines
from holdfast.eval.text.model_calls import answer_probe, judge_answer, write_probes
from holdfast.eval.text.probes import CATEGORIES, TextProbe, make_cloze_probes, turn_text
from holdfast.eval.text.rows import TextRow
from holdfast.methods.registry import build_text
from holdfast.parallel import RayCluster, Work, run_tasks
from holdfast.storage.json_lines import append_line, has_line
from holdfast.text.rewrite import Rewritten, TextPlan, rewrite
from holdfast.transcript.read import read
from holdfast.transcript.turn import Transcript

PASSES = 2
"""Of the judge, so that its agreement with itself is known."""
TRAJECTORIES = 250
"""Sessions of the designed size."""
Report = Callable[[str, int, int, str], None]
Note = Callable[[str], object]
Key = tuple[str, str, str, float]
Written = TextRow | TextProbe | str
"""A row, a probe that a model wrote and that is to be kept, or what is to be told."""


@dataclass(frozen=True)
class TextRun:
    """The settings of a run: sessions, methods and models; without a model the context itself is searched for the
    answer.
    """

    transcripts: tuple[Path, ...]
    methods: tuple[str, ...]
    ratios: tuple[float, ...]
    probes: int = 1
    """Of each category and session."""
    keep_recent: int = 3
    gate: bool = True
    """Put back what would be lost."""
    seed: int = 0
    limit: int = TRAJECTORIES
    workers: int = 4
    """Probes that are asked at one time."""
    writer: Chat | None = None
    answerer: Chat | None = None
    judge: Chat | None = None
    compactor: Chat | None = None

    def __post_init__(self) -> None:
        for what, value in (("probes", self.probes), ("limit", self.limit), ("workers", self.workers)):
            if value < 1:
                raise BadOption(f"{what} must be at least 1, got {value}")
        if self.judge and not self.answerer:
            raise BadOption("a judge needs answers; give --answers too")
        for method in self.methods:
            build_text(method)

    @property
    def config(self) -> dict[str, object]:
        chats = {"writer": self.writer, "answerer": self.answerer, "judge": self.judge}
        names = {what: chat.name if chat else "" for what, chat in chats.items()}
        return {**names, "keep_recent": self.keep_recent, "gate": self.gate, "seed": self.seed}


@dataclass(frozen=True)
class Context:
    """A session as it would be sent."""

    transcript: Transcript
    digest: str
    method: str
    ratio: float
    made: Rewritten


def measure(run: TextRun, out: Path, report: Report, note: Note, cluster: RayCluster | None = None) -> int:
    """Appends a row for every probe and context that `out` does not hold yet; returns how many.

    Sessions, compactions and calls that fail are reported to `note` and left for the next run. A Ray cluster measures
    sessions on many machines, which find them at the same paths.
    """
    written, store = _read_known_keys(run, out, note), _read_stored_probes(out) if run.writer else []
    before, owner = len(written), {probe.session: probe.transcript for probe in store}
    paths = [path.absolute() for path in _sample_paths(run)]
    expected = len(paths) * run.probes * len(CATEGORIES) * len(list(_specs(run)))
    opened = partial(_open_work, replace(run, transcripts=()), frozenset(written), tuple(store))
    with closing(run_tasks(paths, opened, cluster)) as everything:
        for at, done in enumerate(everything):
            report("session", at, len(paths), done.task.name)
            if done.failure:
                note(f"{done.task.name}: left for the next run: {done.failure}")
            for made in done.results:
                if isinstance(made, str):
                    note(made)
                elif isinstance(made, TextRow):
                    if made.key not in written:
                        append_line(out, made)
                        written.add(made.key)
                        report("probe", len(written), max(len(written), expected), made.method)
                elif owner.setdefault(made.session, made.transcript) == made.transcript:
                    append_line(_probe_file(out), made)
    report("session", len(paths), len(paths), "")
    return len(written) - before


def _open_work(run: TextRun, done: Set[Key], store: Sequence[TextProbe]) -> Work[Path, Written]:
    return partial(_measure_session, run, done, store)


def _measure_session(run: TextRun, done: Set[Key], store: Sequence[TextProbe], path: Path) -> Iterator[Written]:
    """Yields all rows that are missing of one session."""
    told: list[str] = []
    try:
        transcript, digest = read(path), hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        probes = [probe for probe in store if probe.session == digest]
        if not probes:
            probes = _probes(run, transcript, path.name, digest)
            yield from probes if run.writer else ()
    except HoldfastError as error:
        yield f"{path.name}: left out: {error}"
        return
    for method, ratio in _specs(run):
        missing = [probe for probe in probes if (digest, probe.digest, method, ratio) not in done]
        if missing and (context := _context(run, transcript, digest, (method, ratio), told.append)):
            for row in _measure_rows(run, context, missing, told.append):
                yield from told
                yield row
                told.clear()
    yield from told


def _read_known_keys(run: TextRun, out: Path, note: Note) -> set[Key]:
    """Returns the keys of the rows in `out`. Raises BadOption if they were measured in another way."""
    if not has_line(out):
        return set()
    rows = read_lines(out, TextRow, "text -o", note)
    for row in rows:
        for what, ours in run.config.items():
            if (theirs := row.config.get(what)) != ours:
                raise BadOption(f"{out} holds rows measured with {what} {theirs!r} and not {ours!r}; give another -o")
    return {row.key for row in rows}


def _sample_paths(run: TextRun) -> list[Path]:
    paths = sorted(run.transcripts)
    return sorted(Random(run.seed).sample(paths, run.limit)) if len(paths) > run.limit else paths


def _specs(run: TextRun) -> Iterator[tuple[str, float]]:
    yield FULL, 1.0
    yield from ((method, ratio) for method in run.methods for ratio in run.ratios)


def _probe_file(out: Path) -> Path:
    """Returns the file that keeps the probes a model wrote, since it would not write the same ones again."""
    return out.with_suffix(".probes.jsonl")


def _read_stored_probes(out: Path) -> list[TextProbe]:
    store = _probe_file(out)
    return read_lines(store, TextProbe, "text -o", str) if store.exists() and store.stat().st_size else []


def _probes(run: TextRun, transcript: Transcript, name: str, digest: str) -> list[TextProbe]:
    if run.writer is None:
        probes = make_cloze_probes(transcript, name, run.probes, run.keep_recent, run.seed)
        if not probes:
            raise Failed("it has no line of which a fair probe can be made")
        return probes
    asked = write_probes(run.writer, transcript, name, run.probes, run.keep_recent)
    return [probe.model_copy(update={"session": digest}) for probe in asked]


def _context(run: TextRun, transcript: Transcript, digest: str, spec: tuple[str, float], note: Note) -> Context | None:
    method, ratio = spec
    plan = TextPlan("none" if method == FULL else method, ratio=ratio, keep_recent=run.keep_recent, gate=run.gate)
    try:
        return Context(transcript, digest, method, ratio, rewrite(transcript, plan, run.compactor))
    except Failed as error:
        note(f"{method} at {ratio:g}x: left out: {error}")
        return None


def _measure_rows(run: TextRun, context: Context, probes: Sequence[TextProbe], note: Note) -> Iterator[TextRow]:
    """Yields the rows in the order in which they are done."""
    with ThreadPoolExecutor(run.workers if run.answerer else 1) as pool:
        asked = {pool.submit(_row, run, context, probe): probe for probe in probes}
        try:
            for future in as_completed(asked):
                try:
                    yield future.result()
                except Failed as error:
                    note(f"{asked[future].id} of {asked[future].transcript}: left for the next run: {error}")
        finally:
            pool.shutdown(cancel_futures=True)  # an interrupted run waits only for the calls under way


def _row(run: TextRun, context: Context, probe: TextProbe) -> TextRow:
    made = context.made
    about = {
        "transcript": probe.transcript,
        "transcript_digest": context.digest,
        "probe": probe.id,
        "probe_digest": probe.digest,
        "category": probe.category,
        "question": probe.question,
        "answer": probe.answer,
        "distractor": probe.distractor,
        "turn": probe.turn,
        "method": context.method,
        "ratio": context.ratio,
        "tokens_full": made.tokens_before,
        "tokens": made.tokens,
        "seconds_compact": made.seconds,
        "compactor_tokens_in": sum(reply.tokens_in for reply in made.replies),
        "compactor_tokens_out": sum(reply.tokens_out for reply in made.replies),
        "used": made.method,
        "notes": made.notes,
    }
    now = datetime.now(UTC).isoformat(timespec="seconds")
    said = _answer_fields(run, context, probe)
    return TextRow.model_validate({"version": __version__, "created": now, "config": run.config, **about, **said})


def _answer_fields(run: TextRun, context: Context, probe: TextProbe) -> dict[str, object]:
    """Returns the fields of the row about the answer."""
    turns = context.made.draft.turns
    if run.answerer is None:
        held = "\n".join(turn_text(turn) for turn in turns)
        return {"text": "", "hit": keyword_hit(held, probe.accept), "fooled": False}
    reply = answer_probe(run.answerer, turns, probe.question)
    verdicts = [judge_answer(run.judge, probe, reply.text) for _ in range(PASSES)] if run.judge else []
    replies = [reply, *(verdict for _, verdict in verdicts)]
    hit = keyword_hit(reply.text, probe.accept)
    return {
        "text": reply.text,
        "hit": hit,
        "fooled": not hit and keyword_hit(reply.text, [probe.distractor]),
        "exact": exact_match(reply.text, probe.answer),
        "f1": f1(reply.text, probe.answer),
        "judged": tuple(score for score, _ in verdicts),
        "tokens_in": sum(held.tokens_in for held in replies),
        "tokens_out": sum(held.tokens_out for held in replies),
    }
