"""`holdfast eval text`: what can still be answered from sessions that were rewritten."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from holdfast import outputs
from holdfast.cli import console
from holdfast.cli.options import (
    TASK_SECONDS,
    AsJson,
    Config,
    Ray,
    RayAddress,
    TaskTimeout,
    check_ratio,
    ray_cluster,
)

if TYPE_CHECKING:
    from rich.table import Table

    from holdfast.engine.chat import Chat
    from holdfast.eval.text.score import TextScore


def text(
    files: Annotated[list[Path], typer.Argument(help="Sessions, or folders of sessions.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Rows are appended here; a run goes on where it was.")],
    methods: Annotated[list[str], typer.Option("--text", help="Text method: NAME or NAME:key=value,…")],
    ratio: Annotated[str, typer.Option(help="So many times fewer tokens: R,R,…")] = "2,5,10",
    probes: Annotated[int, typer.Option(help="Of each category and session.")] = 1,
    keep_recent: Annotated[int, typer.Option(help="Newest exchanges that stay verbatim.")] = 3,
    gate: Annotated[bool, typer.Option("--gate/--no-gate", help="Put back what would be lost.")] = True,
    limit: Annotated[int, typer.Option(help="Most sessions.")] = 250,
    seed: Annotated[int, typer.Option(help="Of the sampling of sessions and probes.")] = 0,
    workers: Annotated[int, typer.Option(help="Probes that are asked at one time.")] = 4,
    write: Annotated[
        bool, typer.Option("--write", help="The planner writes the probes, instead of the ledger.")
    ] = False,
    answers: Annotated[
        bool, typer.Option("--answers", help="The planner answers, instead of searching the context.")
    ] = False,
    judge: Annotated[bool, typer.Option("--judge", help="The validator scores the answers, twice.")] = False,
    config: Config = None,
    ray: Ray = False,
    ray_address: RayAddress = "",
    task_timeout: TaskTimeout = TASK_SECONDS,
    as_json: AsJson = False,
) -> None:
    """Asks about sessions before and after a text compaction; models are those of holdfast.toml."""
    from holdfast.engine.routing import Task, chat_for_task
    from holdfast.eval.rows import read_lines
    from holdfast.eval.run import transcripts_in
    from holdfast.eval.text.rows import TextRow
    from holdfast.eval.text.run import TextRun, measure
    from holdfast.eval.text.score import score_rows

    outputs.check_rows(output, *files)
    planner = _require_chat(Task.PLANNER, config) if write or answers else None
    job = TextRun(
        tuple(path for file in files for path in transcripts_in(file)),
        tuple(methods),
        _ratios(ratio),
        probes,
        keep_recent,
        gate,
        seed,
        limit,
        workers,
        writer=planner if write else None,
        answerer=planner if answers else None,
        judge=_require_chat(Task.VALIDATOR, config) if judge else None,
        compactor=chat_for_task(Task.COMPACTOR, config),
    )
    with console.progress("measuring") as report:
        written = measure(job, output, report, console.say, ray_cluster(ray, ray_address, task_timeout))
    scores = score_rows(read_lines(output, TextRow, "text -o", console.say))
    if as_json:
        console.emit({"out": str(output), "rows": written, "scores": [s.model_dump(mode="json") for s in scores]})
        return
    console.stdout().print(table(scores))
    console.line(f"{written} rows written to {output}; a run with the same options goes on where it stopped")


def _require_chat(task: str, config: Path | None) -> Chat:
    """Returns the model for a task. Raises BadOption if there is none."""
    from holdfast.config import describe_config_places
    from holdfast.engine.routing import Task, chat_for_task
    from holdfast.errors import BadOption

    chat = chat_for_task(Task(task), config)
    if chat is None:
        raise BadOption(f"no model is given for this: add [routes.{task}] to {describe_config_places()}")
    return chat


def _ratios(given: str) -> tuple[float, ...]:
    from holdfast.errors import BadOption

    try:
        return tuple(check_ratio(float(part)) for part in given.split(","))
    except ValueError as error:
        raise BadOption(f"--ratio must be numbers such as 2,5,10, got {given!r}") from error


def table(scores: Sequence[TextScore]) -> Table:
    """Returns a table with a line per method and ratio; scores are 0 to 5."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from holdfast.eval.text.probes import CATEGORIES

    shown = Table(title="probes: mean score of 5 by category, and right answers", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("method", "ratio", "reached", "n", *CATEGORIES, "right", "agree", "pass", "s"):
        shown.add_column(name, justify="left" if name == "method" else "right", no_wrap=True)
    for line in scores:
        verdict = "-" if line.passes is None else "yes" if line.passes else "no"
        means = (_number(line.scores[name]) for name in CATEGORIES)
        agreement = "-" if line.agreement is None else f"{line.agreement:.0%}"
        facts = (f"{line.ratio:g}x", f"{line.reached:.1f}x", str(line.n), *means)
        shown.add_row(line.method, *facts, f"{line.hit:.0%}", agreement, verdict, f"{line.seconds_compact:.2f}")
    return shown


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
