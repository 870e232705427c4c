"""RULER with kvpress's protocol: the context is compacted before the question is known, then answered greedily.

    benchmarks/kvpress/run_ruler.py --text FILE --squad FILE --latent informed --latent rival_kvzip --out ruler.jsonl

Scores are RULER's string matches. Needles are only one of four columns: they see few of the losses that the others see.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from pydantic import BaseModel
from ruler import GROUPS, TASKS, Sample, Sources, make_sample, read_sources

from holdfast import outputs
from holdfast.blocks.block import Block, Kind, Origin
from holdfast.cli import console
from holdfast.cli.main import fail
from holdfast.cli.options import Device, Dtype, Model, check_ratio
from holdfast.compaction.partition import Part
from holdfast.compaction.plan import Plan, Policy
from holdfast.compaction.walk import SharedStudy
from holdfast.engine.greedy_answer import answer_along
from holdfast.engine.kv_context import KVContext
from holdfast.engine.local import LocalEngine
from holdfast.errors import BadOption, HoldfastError
from holdfast.eval.asking import token_ids
from holdfast.eval.metrics import ratio_interval
from holdfast.eval.open_window import OpenWindow
from holdfast.eval.rows import FULL, NONE
from holdfast.eval.windows import Window
from holdfast.gate.latent.gate import split_gate_spec
from holdfast.model.bundled_models import DEFAULT
from holdfast.progress import quiet
from holdfast.storage.json_lines import append_line, read_lines

MARK = "\x1a"


class RulerRow(BaseModel):
    """One answer of one method at one ratio."""

    model: str
    model_digest: str
    dtype: str
    size: int
    task: str
    sample: int
    method: str
    ratio: float | None
    score: float
    text: str
    answers: tuple[str, ...]
    tokens: int
    """Of the context."""
    seconds_prefill: float
    seconds_compact: float
    seconds_answer: float

    @property
    def key(self) -> tuple[Any, ...]:
        return self.task, self.sample, self.method, self.ratio


@dataclass(frozen=True)
class Prompt:
    """A sample in a model's tokens."""

    window: Window
    question: tuple[int, ...]
    sample: Sample


def make_prompt(sample: Sample, tokenizer: Any) -> Prompt:
    """Renders a sample as one user turn: the template stays, the context is compacted, the question follows."""
    asked = [{"role": "user", "content": f"{MARK}{sample.context}{MARK}{sample.question}"}]
    text = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    head, context, question = (token_ids(tokenizer, part) for part in text.split(MARK))
    parts = (_part(head, 0, Kind.SYSTEM, False), _part(context, len(head), Kind.USER, True))
    window = Window("ruler", tuple(part for part in parts if len(part)), (), (), (), 0)
    return Prompt(window, (*question, *token_ids(tokenizer, sample.opening)), sample)


def _part(ids: tuple[int, ...], start: int, kind: Kind, compact: bool) -> Part:
    origin = Origin(0, kind, (0, 0), (start, start + len(ids)))
    return Part((Block(ids, origin),), start, compact)


def answer_all(
    engine: LocalEngine, prompt: Prompt, plans: Sequence[tuple[str, float | None]]
) -> Iterator[tuple[str, float | None, str, dict[str, float]]]:
    """Yields method, ratio, answer and seconds; the window is read once for all of them."""
    opened = OpenWindow.read(prompt.window, engine)
    draft: list[int] = []
    shared: dict[str, SharedStudy] = {}
    for spec, ratio in plans:
        live, seconds = {FULL: opened.full, NONE: opened.none}.get(spec), 0.0
        if live is None:
            live, seconds = _compact(opened, spec, ratio, shared)
        began = time.perf_counter()
        ids = answer_along(engine, live, prompt.question, draft, prompt.sample.tokens)
        draft = ids if spec == FULL else draft
        spent = {"seconds_prefill": opened.seconds, "seconds_compact": seconds}
        spent["seconds_answer"] = time.perf_counter() - began
        yield spec, ratio, engine.model.tokenizer.decode(ids), spent


def _compact(
    opened: OpenWindow, spec: str, ratio: float | None, shared: dict[str, SharedStudy]
) -> tuple[KVContext, float]:
    method, gate = split_gate_spec(spec)
    assert ratio is not None
    plan = Plan(method, ratio, None, Policy(pin=(), keep_recent=0), gate)
    context, live = opened.compact(plan, quiet, shared.setdefault(method, SharedStudy()))
    return live, float(context.evidence["seconds_compact"])


def main(  # noqa: PLR0913, PLR0917 - its parameters are its options
    text: Annotated[Path, typer.Option(help="A plain text, such as WikiText: hay and words.")],
    squad: Annotated[Path, typer.Option(help="SQuAD 1.1 as JSON.")],
    out: Annotated[Path, typer.Option(help="Rows are appended here; a run that was interrupted goes on.")],
    latent: Annotated[list[str], typer.Option(help="Methods, and rival_… of kvpress; full and none are always run.")],
    ratio: Annotated[list[float], typer.Option(help="kvpress's 0.5, 0.75 and 0.875 are 2, 4 and 8.")] = [2.0, 4.0, 8.0],  # noqa: B006
    size: Annotated[int, typer.Option(help="Most tokens of a context.")] = 4096,
    samples: Annotated[int, typer.Option(help="Of each task.")] = 8,
    task: Annotated[list[str] | None, typer.Option(help="Only these tasks.")] = None,
    model: Model = DEFAULT,
    dtype: Dtype = "auto",
    device: Device = "cpu",
) -> None:
    """Measures methods, ours and kvpress's, on RULER's tasks, and prints a line for each method and ratio."""
    if any(name.startswith("rival_") for name in latent):
        import rivals  # imports kvpress, which wraps the attention functions that it finds: before a model is adopted

        rivals.register()
    tasks = _check_tasks(task)
    sources = read_sources(text, squad)
    outputs.check_rows(out, text, squad)
    engine = console.engine(model, dtype, device)
    plans: list[tuple[str, float | None]] = [(FULL, 1.0), (NONE, None)]
    plans += [(spec, check_ratio(r)) for spec in latent for r in ratio]
    rows = _read_rows(out, engine, size)
    with console.progress("measuring") as report:
        for n, (sample, name) in enumerate((s, t) for s in range(samples) for t in tasks):
            report("sample", n, samples * len(tasks), name)
            rows += _measure(engine, sources, (name, sample, size), plans, rows, out)
    for line in table(rows):
        console.line(line)


def _measure(
    engine: LocalEngine,
    sources: Sources,
    place: tuple[str, int, int],
    plans: Sequence[tuple[str, float | None]],
    rows: Sequence[RulerRow],
    out: Path,
) -> list[RulerRow]:
    """Measures and appends what is missing of one sample."""
    (task, number, size), tokenizer = place, engine.model.tokenizer
    known = {row.key for row in rows}
    if all((task, number, *plan) in known for plan in plans):
        return []
    sample = make_sample(task, str(number), sources, size, lambda text: len(token_ids(tokenizer, text)))
    prompt, made = make_prompt(sample, tokenizer), []
    for spec, ratio, text, seconds in answer_all(engine, prompt, plans):
        row = RulerRow(
            model=engine.model.name,
            model_digest=engine.model.digest,
            dtype=str(engine.model.dtype).removeprefix("torch."),
            size=size,
            task=task,
            sample=number,
            method=spec,
            ratio=ratio,
            score=sample.score(text),
            text=text,
            answers=sample.answers,
            tokens=prompt.window.tokens,
            **seconds,
        )
        if row.key not in known:
            append_line(out, row)
            made.append(row)
    return made


def _check_tasks(task: Sequence[str] | None) -> tuple[str, ...]:
    chosen = tuple(task or TASKS)
    if unknown := [name for name in chosen if name not in TASKS]:
        raise BadOption(f"--task: there is no {unknown[0]!r}; there are: {', '.join(TASKS)}")
    if all(name.startswith("niah") for name in chosen):
        raise BadOption("--task: needles alone see few of the losses; add vt, cwe, fwe or qa_1")
    return chosen


def _read_rows(out: Path, engine: LocalEngine, size: int) -> list[RulerRow]:
    if not out.exists():
        return []
    rows = read_lines(out, RulerRow, console.say)
    dtype = str(engine.model.dtype).removeprefix("torch.")
    if any((row.model_digest, row.dtype, row.size) != (engine.model.digest, dtype, size) for row in rows):
        raise BadOption(f"{out} holds rows of another model, dtype or --size; give another --out")
    return rows


def table(rows: Sequence[RulerRow]) -> Iterator[str]:
    """Yields a line for each method and ratio: the mean of all tasks with its interval, then each kind of task."""
    yield f"{'method':32} {'ratio':>5} {'n':>4} {'all, %':>7} {'95 % interval':>15} " + " ".join(
        f"{g:>9}" for g in GROUPS
    )
    settings = sorted(
        {(row.method, row.ratio) for row in rows}, key=lambda s: (s[0] not in (FULL, NONE), s[0], s[1] or 0)
    )
    for method, ratio in settings:
        mine = [row for row in rows if (row.method, row.ratio) == (method, ratio)]
        scores = np.array([row.score for row in mine])
        places = np.arange(len(mine))
        low, high = ratio_interval(scores, np.ones(len(mine)), places)
        groups = [[r.score for r in mine if r.task.startswith(start)] for start in GROUPS.values()]
        means = " ".join(f"{100 * float(np.mean(g)):9.1f}" if g else f"{'-':>9}" for g in groups)
        shown = f"[{100 * low:.1f}, {100 * high:.1f}]"
        yield f"{method:32} {ratio or 0:5g} {len(mine):4} {100 * scores.mean():7.1f} {shown:>15} {means}"
    if rows:
        spent = f"{rows[0].model}, {rows[0].dtype}, contexts of up to {rows[0].size} tokens; n counts answers"
        yield f"{spent}; compaction in prefills: " + ", ".join(_costs(rows))


def _costs(rows: Sequence[RulerRow]) -> Iterator[str]:
    for method in dict.fromkeys(row.method for row in rows):
        mine = [row.seconds_compact / row.seconds_prefill for row in rows if row.method == method]
        if method not in (FULL, NONE):
            yield f"{method} {float(np.mean(mine)):.2f}"


if __name__ == "__main__":
    try:
        typer.run(main)
    except HoldfastError as error:
        fail(str(error), error.exit_code)
