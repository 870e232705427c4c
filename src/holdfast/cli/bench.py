"""`holdfast bench`: programs as the judge. `keep` measures a local model, `report` prints what was measured."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from holdfast import outputs
from holdfast.cli import console
from holdfast.cli.help import FullSummaries
from holdfast.cli.options import DEFAULT_MODEL, AsJson, Device, Dtype, Force, Model

if TYPE_CHECKING:
    from holdfast.agent.models import AgentModel
    from holdfast.bench.keep.score import KeepScore
    from holdfast.engine.chat import Chat

app = typer.Typer(cls=FullSummaries, help="Lets programs judge what a way of keeping context keeps.")


@app.command()
def keep(
    out: Annotated[Path, typer.Option(help="Rows are appended here; a run that was interrupted goes on.")],
    tokens: Annotated[str, typer.Option(help="Size of a session: 4k, 8k, 16k, or tokens.")] = "4k",
    items: Annotated[int, typer.Option(help="Sessions, each with one task.")] = 100,
    first: Annotated[int, typer.Option(help="Seed of the first session; the others follow one by one.")] = 0,
    method: Annotated[
        list[str], typer.Option(help="none, or NAME@RATIO as text:truncate@8, tiered+gate@8, informed@8; repeatable.")
    ] = [],  # noqa: B006
    sandbox: Annotated[str, typer.Option(help="Of what the model writes; none runs it as you.")] = "auto",
    model: Model = DEFAULT_MODEL,
    dtype: Dtype = "auto",
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Generates sessions with agreements, and counts which of them a small program written at the end keeps."""
    from holdfast.bench.keep.conditions import DEFAULT
    from holdfast.bench.keep.item import read_size
    from holdfast.bench.keep.run import KeepRun, measure

    run = KeepRun(read_size(tokens), items, first, tuple(method) or DEFAULT, sandbox)
    outputs.check_rows(out)
    engine = console.engine(model, dtype, device)
    with console.progress("measuring") as shown:
        written = measure(run, engine, out, shown, console.say)
    if as_json:
        console.emit({"out": str(out), "rows": written})
        return
    console.line(f"{written} rows written to {out}")
    report([out])


@app.command()
def run(
    task: Annotated[list[str], typer.Argument(help="Tasks by number or id; default: all eight.")] = [],  # noqa: B006
    out: Annotated[Path, typer.Option("-o", "--output", help="A folder; a run that was interrupted goes on.")] = Path(
        "bench-run"
    ),
    context: Annotated[
        list[str],
        typer.Option(help="raw, cache, compression, compression+cache, retrieval, or a context of the agent."),
    ] = [],  # noqa: B006
    session: Annotated[list[str], typer.Option(help="one: all tasks in a session; fresh: a session a task.")] = [],  # noqa: B006
    trials: Annotated[int, typer.Option(help="Programs for each condition.")] = 1,
    trigger: Annotated[int, typer.Option(help="Tokens of a history at which it is compacted.")] = 12_000,
    agent: Annotated[str, typer.Option(help="scripted, or a model as `holdfast agent --model` takes it.")] = "scripted",
    judge: Annotated[bool, typer.Option("--judge", help="Ask the judge of holdfast.toml beside the checks.")] = False,
    sandbox: Annotated[str, typer.Option(help="auto, or a sandbox of the agent; none runs commands as you.")] = "auto",
    as_json: AsJson = False,
) -> None:
    """Lets an agent build a program in eight tasks, and hidden checks judge what was built."""
    from holdfast.bench.tasks.conditions import NAMED
    from holdfast.bench.tasks.curves import draw_curves
    from holdfast.bench.tasks.run import SESSIONS, TaskRow, make_run, measure
    from holdfast.bench.tasks.table import task_table
    from holdfast.storage.json_lines import read_lines

    asked = make_run(
        task,
        tuple(context) or tuple(NAMED),
        sessions=tuple(session) or SESSIONS,
        trials=trials,
        sandbox=sandbox,
        trigger=trigger,
        agent=agent,
        judge=_open_judge() if judge else None,
    )
    with console.progress("building") as shown:
        rows = read_lines(measure(asked, out, _model_opener(agent), shown), TaskRow, console.say)
    outputs.write_output(out / "prompts.png", draw_curves(rows).png, force=True)
    if as_json:
        console.emit([row.model_dump(mode="json") for row in rows])
        return
    console.print_whole(task_table(rows, "raw"))
    console.line(f"the curves: {out / 'prompts.png'}")


def _model_opener(name: str) -> Callable[[], AgentModel] | None:
    """Returns what opens the model of a session; a model of this process is loaded once."""
    from holdfast.agent.open_model import is_local, open_model
    from holdfast.bench.tasks.run import SCRIPTED

    if name == SCRIPTED:
        return None
    if not is_local(name):
        return lambda: open_model(name)
    from holdfast.agent.local import LocalModel

    engine = console.engine(name, "auto", "cpu")
    return lambda: LocalModel(engine)


def _open_judge() -> Chat:
    from holdfast.config import describe_config_places
    from holdfast.engine.routing import Task, chat_for_task
    from holdfast.errors import BadOption

    chat = chat_for_task(Task.VALIDATOR)
    if chat is None:
        raise BadOption(f"--judge asks the model of [routes.validator]: add it to {describe_config_places()}")
    return chat


@app.command()
def report(
    rows: Annotated[list[Path], typer.Argument(help="Rows of `holdfast bench keep`.")],
    against: Annotated[str, typer.Option(help="The condition that the others are compared with.")] = "full",
    by: Annotated[str, typer.Option(help="A table for each family, or place.")] = "",
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Draw the pass rates over bytes: an SVG into a .svg file, else a PNG.")
    ] = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Prints pass rates and the share of facts that were kept, with intervals and paired differences.

    Files of several models and sizes may be given at once.
    """
    from holdfast.bench.keep.rows import KeepRow
    from holdfast.bench.keep.score import score_groups
    from holdfast.storage.json_lines import read_lines

    if plot is not None:
        outputs.check_output(plot, *rows, force=force)
    found = [row for path in rows for row in read_lines(path, KeepRow, console.say)]
    groups = score_groups(found, against, by)
    if plot is not None:
        _write_plot(plot, score_groups(found, against)[""], force)
    if as_json:
        console.emit({name: [s.model_dump(mode="json") for s in scores] for name, scores in groups.items()})
        return
    for name, scores in groups.items():
        if name:
            console.line(f"\n{name}")
        _print_tables(scores, against)


def _write_plot(path: Path, scores: list[KeepScore], force: bool) -> None:
    from holdfast.bench.keep.plot import draw_pass_rates

    drawn = draw_pass_rates(scores)
    outputs.write_output(path, drawn.svg.encode() if path.suffix == ".svg" else drawn.png, force)
    console.say(f"wrote {path}")


def _print_tables(scores: list[KeepScore], against: str) -> None:
    from holdfast.bench.keep.table import keep_table

    for _, part in groupby(scores, key=lambda found: (found.model, found.size)):
        console.print_whole(keep_table(list(part), against))
