"""`holdfast eval`: three programs over files. `run` writes rows, `score` reads rows, `report` draws them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from holdfast import outputs
from holdfast.cli import console, eval_text
from holdfast.cli.help import FullSummaries
from holdfast.cli.options import (
    DEFAULT_MODEL,
    TASK_SECONDS,
    AsJson,
    Device,
    Dtype,
    Force,
    Model,
    Ray,
    RayAddress,
    TaskTimeout,
    check_ratio,
    ray_cluster,
)

app = typer.Typer(cls=FullSummaries, help="Measures what survives a compaction.")
app.command()(eval_text.text)


@app.command()
def run(
    out: Annotated[Path, typer.Option(help="Rows are appended here; a run that was interrupted goes on.")],
    latent: Annotated[list[str], typer.Option(help="Methods; full and none are always run.")],
    data: Annotated[
        list[Path], typer.Option(help="A folder with transcripts/ and probes.jsonl; may be repeated.")
    ] = [],  # noqa: B006
    transcripts: Annotated[list[Path], typer.Option(help="A session, or a folder of sessions; may be repeated.")] = [],  # noqa: B006
    probes: Annotated[list[Path], typer.Option(help="Questions about them, one JSON object a line.")] = [],  # noqa: B006
    ratio: Annotated[list[float], typer.Option(help="Tokens per slot of the compacted span.")] = [8.0],  # noqa: B006
    window: Annotated[int, typer.Option(help="Tokens of a window around the probes.")] = 4096,
    span: Annotated[str, typer.Option(help="window, or turn: compact only the turn that holds the answer.")] = "window",
    by_turn: Annotated[bool | None, typer.Option("--by-turn/--at-once", help="Default: what the method does.")] = None,
    limit: Annotated[int | None, typer.Option(help="Ask only so many probes.")] = None,
    windows: Annotated[int | None, typer.Option(help="Only so many windows, of all sessions in turn.")] = None,
    seed: Annotated[int, typer.Option(help="Of the sampling of probes.")] = 0,
    answers: Annotated[
        bool, typer.Option("--answers/--no-answers", help="Greedy answers and actions too (slower).")
    ] = True,
    answer_tokens: Annotated[int, typer.Option(help="Most tokens of a greedy answer.")] = 48,
    action_tokens: Annotated[int, typer.Option(help="Most tokens of a greedy action.")] = 48,
    action_passes: Annotated[int, typer.Option(help="1: quick, the same tool and call but no F1; 0: whole.")] = 0,
    later: Annotated[bool, typer.Option("--later/--no-later", help="The action behind three more turns too.")] = True,
    allow_trained: Annotated[
        bool, typer.Option("--allow-trained", help="Also sessions that a method was trained on.")
    ] = False,
    model: Model = DEFAULT_MODEL,
    dtype: Dtype = "auto",
    device: Device = "cpu",
    ray: Ray = False,
    ray_address: RayAddress = "",
    task_timeout: TaskTimeout = TASK_SECONDS,
    as_json: AsJson = False,
) -> None:
    """Measures methods on sessions; one row per transcript, method, ratio and probe."""
    from holdfast.errors import BadOption
    from holdfast.eval.probes import read_probes
    from holdfast.eval.run import Run, measure, transcripts_in

    if span not in ("window", "turn"):
        raise BadOption(f"--span must be window or turn, got {span!r}")
    if min(answer_tokens, action_tokens, action_passes, 1 if windows is None else windows - 1) < 0:
        raise BadOption("--answer-tokens, --action-tokens and --action-passes are at least 0, --windows at least 1")
    sessions = [*transcripts, *(folder / "transcripts" for folder in data)]
    asked = [*probes, *(folder / "probes.jsonl" for folder in data)]
    if not (sessions and asked):
        raise BadOption("nothing to measure: give --data FOLDER, or --transcripts and --probes")
    outputs.check_rows(out, *asked, *sessions)
    ratios = tuple(check_ratio(r) for r in ratio)
    job = Run(
        transcripts_in(*sessions),
        tuple(read_probes(*asked)),
        tuple(latent),
        ratios,
        window=window,
        span=span,
        limit=limit,
        seed=seed,
        by_turn=by_turn,
        answer_tokens=answer_tokens if answers else 0,
        action_tokens=action_tokens if answers or action_passes else 0,
        action_passes=action_passes,
        later=later,
        windows=windows,
        allow_trained=allow_trained,
    )
    workers = ray_cluster(ray, ray_address, task_timeout, device)
    engine = console.engine(model, dtype, device)
    with console.progress("measuring") as report:
        written = measure(job, engine, out, report, console.say, workers)
    if as_json:
        console.emit({"out": str(out), "rows": written})
        return
    console.line(f"{written} rows written to {out}; next: holdfast eval score {out}")


@app.command()
def score(
    rows: Annotated[Path, typer.Argument(help="Rows of `holdfast eval run`.")],
    by_transcript: Annotated[bool, typer.Option("--by-transcript", help="A table per transcript.")] = False,
    against: Annotated[str, typer.Option(help="Each method's paired differences to this one.")] = "",
    as_json: AsJson = False,
) -> None:
    """Prints one line per method and ratio of the rows, with n and intervals."""
    from holdfast.eval.differences import score_pairs
    from holdfast.eval.models import refuse_needles_alone
    from holdfast.eval.rows import read_rows
    from holdfast.eval.score import score as score_rows
    from holdfast.eval.score import scores_by_transcript

    found = read_rows(rows, warn=console.say)
    refuse_needles_alone(found)
    if against:
        differences = score_pairs(found, against)
        if as_json:
            console.emit([s.model_dump(mode="json") for s in differences])
            return
        from holdfast.eval.report import difference_table

        console.stdout().print(difference_table(differences))
        return
    groups = scores_by_transcript(found) if by_transcript else {"": score_rows(found)}
    if as_json:
        listed = {name: [s.model_dump(mode="json") for s in scores] for name, scores in groups.items()}
        console.emit(listed if by_transcript else listed[""])
        return
    from holdfast.eval.report import actions_table, table

    for name, scores in groups.items():
        if name:
            console.line(f"\n{name}")
        console.stdout().print(table(scores))
        if actions := actions_table(scores):
            console.stdout().print(actions)


@app.command()
def report(
    rows: Annotated[list[Path], typer.Argument(help="Rows of `holdfast eval run`; of several models for one page.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The page; PNG plots are written beside it.")],
    against: Annotated[str, typer.Option(help="Compare each method with this one; default: truncate.")] = "",
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Writes one self-contained HTML page and PNG plots."""
    from holdfast.eval.report import report_files
    from holdfast.eval.rows import read_rows

    outputs.check_output(output, *rows, force=force)
    console.ticker.set("drawing the report")
    files = report_files([row for path in rows for row in read_rows(path, warn=console.say)], output, against=against)
    for path in files:
        outputs.check_output(path, *rows, force=force)
    for path, data in files.items():
        outputs.write_output(path, data, force)
    written = list(files)
    if as_json:
        console.emit([str(path) for path in written])
        return
    console.line(f"{written[0]} and {len(written) - 1} plots written")
