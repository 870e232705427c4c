"""`holdfast ask`."""

from __future__ import annotations

import sys
from itertools import chain
from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli import console
from holdfast.cli.context_files import model_for, read_context_manifest
from holdfast.cli.options import AsJson, Device, FileDtype, FileModel


def ask(
    file: Annotated[Path, typer.Argument(help="A .holdfast file.")],
    question: Annotated[str, typer.Argument(help="What to ask about the session.")],
    limit: Annotated[int, typer.Option(help="Most tokens of the answer.")] = 128,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Of the sampling.")] = 0,
    model: FileModel = "",
    dtype: FileDtype = "",
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Prints the answer to a question over a stored context."""
    from holdfast.compaction.compact import ask as ask_context
    from holdfast.compaction.compact import restore
    from holdfast.engine.sampling import Sampling
    from holdfast.model.dtype import choose_recorded_dtype

    manifest = read_context_manifest(file)
    dtype = dtype or choose_recorded_dtype(manifest.dtype, device)
    engine = console.engine(model_for(file, manifest, model), dtype, device)
    with console.progress("reading the context") as report:
        context = restore(file, engine, report)
        pieces = ask_context(context, engine, question, limit, Sampling(temperature, seed=seed), report)
        first = next(pieces, "")
    if as_json:
        console.emit({"question": question, "answer": first + "".join(pieces)})
        return
    console.ticker.stop()
    for piece in chain([first], pieces):
        sys.stdout.write(piece)
        sys.stdout.flush()
    sys.stdout.write("\n")
