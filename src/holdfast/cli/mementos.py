"""`holdfast mementos`: long work as blocks with a dense note each, made, described and exported."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from holdfast import outputs
from holdfast.cli import console
from holdfast.cli.help import FullSummaries
from holdfast.cli.options import DEFAULT_MODEL, AsJson, Device, Force, Model
from holdfast.errors import BadInput, BadOption

if TYPE_CHECKING:
    from holdfast.engine.chat import Chat
    from holdfast.mementos.traces import Trace

app = typer.Typer(cls=FullSummaries, help="Makes blocks and mementos of long work.")
Records = Annotated[Path, typer.Argument(help="A file of records, as `holdfast mementos make` writes it.")]


@app.command()
def make(
    files: Annotated[
        list[Path], typer.Argument(help="Sessions, folders of them, or JSON lines with `task_id`, `cot`.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Records are appended here; a run goes on.")],
    scorer: Annotated[str, typer.Option(help="Of boundaries: code, or model.")] = "code",
    compressor: Annotated[str, typer.Option(help="Of blocks: ledger (code), or model.")] = "ledger",
    judge: Annotated[bool, typer.Option("--judge/--no-judge", help="The model judges mementos, 0 to 10.")] = True,
    model: Annotated[str, typer.Option(help="A model of this machine; else the routes of holdfast.toml.")] = "",
    config: Annotated[list[Path], typer.Option(help="A holdfast.toml; several are a pool of endpoints.")] = [],  # noqa: B006
    least: Annotated[int, typer.Option(help="Tokens of a block at least.")] = 200,
    typical: Annotated[int, typer.Option(help="Tokens of a block on average, at most.")] = 2000,
    fewest: Annotated[int, typer.Option(help="Blocks at least; 0: by --typical.")] = 0,
    most: Annotated[int, typer.Option(help="Blocks at most; 0: by --least.")] = 0,
    balance: Annotated[float, typer.Option(help="Weight of equal sizes against good boundaries.")] = 0.5,
    share: Annotated[float, typer.Option(help="Tokens of a memento, as a share of its block's.")] = 0.2,
    accept: Annotated[float, typer.Option(help="Score of the judge from which on a memento is taken.")] = 8.0,
    rounds: Annotated[int, typer.Option(help="Tries at a memento.")] = 3,
    timeout: Annotated[float, typer.Option(help="Seconds of one call of a model.")] = 180.0,
    workers: Annotated[int, typer.Option(help="Traces at one time.")] = 1,
    failures: Annotated[int, typer.Option(help="Traces that may fail in a row.")] = 20,
    limit: Annotated[int | None, typer.Option(help="Only so many traces.")] = None,
    as_json: AsJson = False,
) -> None:
    """Cuts sessions and chains of thought into blocks, and writes a memento for each."""
    from holdfast.batch import find_sessions
    from holdfast.mementos.boundaries import CodeScorer, ModelScorer
    from holdfast.mementos.compress import CodeCompressor, ModelCompressor
    from holdfast.mementos.pipeline import Pipeline, read_records, run_pipeline
    from holdfast.mementos.segment import Shape
    from holdfast.mementos.statistics import describe_records

    _check_choice("--scorer", scorer, ("code", "model"))
    _check_choice("--compressor", compressor, ("ledger", "model"))
    outputs.check_rows(output, *files)
    shape = Shape(least, typical, fewest, most, balance)
    chats = _chats(model, config) if "model" in (scorer, compressor) else []
    how = Pipeline(
        shape,
        ModelScorer(chats[0], timeout=timeout) if scorer == "model" else CodeScorer(),
        ModelCompressor(chats[0], chats[1] if judge else None, accept, rounds, share, timeout=timeout)
        if compressor == "model"
        else CodeCompressor(share),
        workers,
        failures,
    )
    traces = [trace for file in find_sessions(files) for trace in _read(file)][:limit]
    if not traces:
        raise BadInput("none of these files is a session or JSON lines of thoughts; what each is was said above")
    with console.progress("making") as report:
        result = run_pipeline(traces, output, how, report, console.say)
    ids = {trace.id for trace in traces}
    rows = [row for row in read_records(output, console.say) if row.task_id in ids] if output.exists() else []
    numbers = describe_records(rows).model_dump() if rows else {}
    if as_json:
        console.emit({"out": str(output), **vars(result), "statistics": numbers})
    else:
        _show(numbers)
        console.line(
            f"{result.written} traces written to {output}, {result.before} stood there, {len(result.failed)} failed"
        )
    if result.failed:
        raise typer.Exit(1)


@app.command()
def stats(file: Records, as_json: AsJson = False) -> None:
    """Describes a file of records: blocks, sizes, ratios, scores, facts lost."""
    from holdfast.mementos.pipeline import read_records
    from holdfast.mementos.statistics import describe_records

    rows = read_records(file, console.say)
    if not rows:
        raise BadInput(f"{file}: no records; make some with `holdfast mementos make`")
    numbers = describe_records(rows).model_dump()
    console.emit(numbers) if as_json else _show(numbers)


@app.command()
def export(
    file: Records,
    output: Annotated[Path, typer.Option("-o", "--output", help="JSON lines: task_id, prompt, completion.")],
    force: Force = False,
) -> None:
    """Writes records as training text with the special tokens of blocks and mementos."""
    from holdfast.mementos.export import export_record
    from holdfast.mementos.pipeline import read_records

    outputs.check_output(output, file, force=force)
    rows = [export_record(record) for record in read_records(file, console.say)]
    outputs.write_output(output, "".join(row.model_dump_json() + "\n" for row in rows).encode(), force)
    console.line(f"{len(rows)} samples written to {output}")


@app.command()
def train(
    file: Records,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the run; one that exists goes on.")],
    stages: Annotated[str, typer.Option(help="full, masked, or both in order.")] = "full,masked",
    steps: Annotated[int, typer.Option(help="Of each stage.")] = 200,
    batch: Annotated[int, typer.Option(help="Rows of a step.")] = 4,
    rate: Annotated[
        float, typer.Option(help="Learning rate; it falls to zero as a cosine, after 5 % of warm-up.")
    ] = 8e-5,
    length: Annotated[int, typer.Option(help="Tokens of a row, into which samples are packed.")] = 1024,
    held_out: Annotated[int, typer.Option(help="Samples that judge, and are not trained on.")] = 0,
    seed: Annotated[int, typer.Option(help="Of the order of rows.")] = 42,
    model: Model = DEFAULT_MODEL,
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Trains a model to write blocks and mementos, in two stages, and writes it to FOLDER/model. Ctrl-C saves."""
    from holdfast.learn.loop import Training
    from holdfast.mementos.export import export_record
    from holdfast.mementos.pipeline import read_records
    from holdfast.mementos.training import Stages, train_stages

    how = Stages(tuple(filter(None, stages.split(","))), length, held_out)
    training = Training(steps, batch, rate=rate, warmup=steps // 20, schedule="cosine", seed=seed, judge_every=20)
    samples = [export_record(record) for record in read_records(file, console.say)]
    engine = console.engine(model, "float32", device)
    with console.progress("training") as report:
        trained, done = train_stages(engine.model, samples, output, training, how, report)
    trained.hf.save_pretrained(output / "model")
    trained.tokenizer.save_pretrained(output / "model")
    if as_json:
        console.emit({"model": str(output / "model"), **done.manifest})
    else:
        console.line(
            f"{output / 'model'}: step {done.step}; use it: holdfast serve --model {output / 'model'} --blocks on"
        )


def _read(file: Path) -> list[Trace]:
    """Returns the traces of a file; one that is neither kind is told and left out."""
    from holdfast.mementos.traces import read_traces

    try:
        return read_traces(file, console.say)
    except BadInput as error:
        console.say(f"{file.name}: left out: {error}")
        return []


def _chats(model: str, configs: list[Path]) -> list[Chat]:
    """Returns the model that scores and writes, and the one that judges."""
    from holdfast.config import describe_config_places
    from holdfast.engine.local_chat import LocalChat
    from holdfast.engine.routing import Task, chat_for_task
    from holdfast.mementos.clients import ChatPool

    if model:
        return [LocalChat(model), LocalChat(model)]
    found: dict[Task, list[Chat]] = {Task.COMPACTOR: [], Task.VALIDATOR: []}
    places: list[Path | None] = [*configs] or [None]
    for place in places:
        for task, chats in found.items():
            if chat := chat_for_task(task, place):
                chats.append(chat)
    if not found[Task.COMPACTOR]:
        raise BadOption(f"a model is asked for: add [routes.compactor] to {describe_config_places()}, or give --model")
    writer = ChatPool(found[Task.COMPACTOR])
    return [writer, ChatPool(found[Task.VALIDATOR]) if found[Task.VALIDATOR] else writer]


def _check_choice(option: str, given: str, choices: tuple[str, ...]) -> None:
    if given not in choices:
        raise BadOption(f"{option} must be {' or '.join(choices)}, got {given!r}")


def _show(numbers: dict[str, object]) -> None:
    for name, value in numbers.items():
        console.line(f"{value if value is not None else '-'}", label=name.replace("_", " "))
