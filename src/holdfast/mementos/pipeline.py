"""Turns traces into records of blocks and mementos, a line each as it is done; an interrupted run goes on.

A trace that fails is no line: it is tried again by the next run. Only this thread writes.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from holdfast.errors import BadOption, Failed, HoldfastError
from holdfast.mementos.boundaries import CodeScorer, Scorer
from holdfast.mementos.compress import CodeCompressor, Compressor, cut_blocks
from holdfast.mementos.records import MementoRecord
from holdfast.mementos.segment import Shape, segment
from holdfast.mementos.traces import Trace
from holdfast.storage.json_lines import append_line, read_lines


@dataclass(frozen=True)
class Pipeline:
    """The steps by which traces become records."""

    shape: Shape = field(default_factory=Shape)
    scorer: Scorer = field(default_factory=CodeScorer)
    compressor: Compressor = field(default_factory=CodeCompressor)
    workers: int = 1
    """Traces at one time."""
    failures: int = 20
    """Traces in a row that may fail before the run stops."""

    def options(self, trace: Trace) -> dict[str, Any]:
        """Returns what a record depends on."""
        text = hashlib.sha256("\0".join((trace.prefix, *trace.units, trace.suffix)).encode(errors="replace"))
        own = {"scorer": self.scorer.name, "compressor": self.compressor.name}
        return {**own, **asdict(self.shape), "text": text.hexdigest()[:16]}


@dataclass(frozen=True)
class PipelineResult:
    """One run."""

    written: int
    before: int
    """Traces that an earlier run had done."""
    failed: dict[str, str]
    """Reasons by trace."""


Report = Callable[[str, int, int, str], None]


def make_record(trace: Trace, how: Pipeline) -> MementoRecord:
    """Returns a trace in blocks with their mementos. Raises Failed for a trace of no units."""
    began = time.perf_counter()
    if not trace.units:
        raise Failed(f"{trace.id}: nothing stands behind its head, so that there is no block")
    scores = how.scorer.score(trace)
    blocks = segment(trace.tokens, scores, how.shape)
    written = [how.compressor.write(block) for block in cut_blocks(trace, blocks)]
    finals = [score for _, made in written if (score := made.final.score) is not None]
    return MementoRecord(
        task_id=trace.id,
        sentences=list(trace.units),
        boundary_scores=scores,
        blocks=blocks,
        block_summaries=[memento for memento, _ in written],
        refinement_metadata=[made for _, made in written],
        avg_final_score=round(sum(finals) / len(finals), 3) if finals else None,
        num_blocks=len(blocks),
        num_sentences=len(trace.units),
        think_prefix=trace.prefix,
        think_suffix=trace.suffix,
        seconds=round(time.perf_counter() - began, 3),
        options=how.options(trace),
    )


def run_pipeline(
    traces: Sequence[Trace], output: Path, how: Pipeline, report: Report, note: Callable[[str], object]
) -> PipelineResult:
    """Appends a record for every trace that has none. Raises Failed after too many failures in a row, with all that is
    done written; BadOption for two traces of one id.
    """
    ids = [trace.id for trace in traces]
    if twice := {name for name in ids if ids.count(name) > 1}:
        raise BadOption(f"two traces are called {min(twice)!r}: give them in runs of their own")
    done = {_key(row.task_id, row.options) for row in read_records(output, note)} if output.exists() else set()
    missing = [trace for trace in traces if _key(trace.id, how.options(trace)) not in done]
    failed: dict[str, str] = {}
    in_a_row = 0
    for number, (trace, made) in enumerate(_finish(missing, how)):
        report("trace", number + 1, len(missing), trace.id)
        if isinstance(made, MementoRecord):
            append_line(output, made)
            in_a_row = 0
            continue
        failed[trace.id] = made
        in_a_row += 1
        note(f"{trace.id}: left out: {made}")
        if in_a_row >= how.failures:
            raise Failed(f"{in_a_row} traces failed in a row, the last one: {made}; what is done stands in {output}")
    return PipelineResult(len(missing) - len(failed), len(traces) - len(missing), failed)


def read_records(path: Path, note: Callable[[str], object]) -> list[MementoRecord]:
    """Returns the newest record of each trace. Raises BadInput for a line that is none."""
    return list({row.task_id: row for row in read_lines(path, MementoRecord, note)}.values())


def _finish(traces: Sequence[Trace], how: Pipeline) -> Iterator[tuple[Trace, MementoRecord | str]]:
    """Yields every trace with its record, or the reason for there being none, as they are done."""

    def work(trace: Trace) -> MementoRecord | str:
        try:
            return make_record(trace, how)
        except HoldfastError as error:
            return str(error)

    if how.workers <= 1:
        yield from ((trace, work(trace)) for trace in traces)
        return
    rest = iter(traces)
    running: dict[Future[MementoRecord | str], Trace] = {}
    with ThreadPoolExecutor(how.workers, "memento") as pool:
        try:
            while True:
                for trace in rest:
                    running[pool.submit(work, trace)] = trace
                    if len(running) >= how.workers:
                        break
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    yield running.pop(future), future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _key(name: str, options: dict[str, Any]) -> str:
    return json.dumps([name, options], sort_keys=True)
