"""`holdfast recompact`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli import console
from holdfast.cli.context_files import open_contexts, save_context
from holdfast.cli.options import AsJson, ContextOutput, Device, FileDtype, FileModel, Force, check_ratio


def recompact(
    file: Annotated[Path, typer.Argument(help="A .holdfast file.")],
    output: ContextOutput,
    ratio: Annotated[float | None, typer.Option(help="Tokens per slot of everything compacted.")] = None,
    slots: Annotated[int | None, typer.Option(help="Slots per head instead, on average.")] = None,
    allocation: Annotated[
        str, typer.Option(help="global, layer or head: what keeps its part of the slots. Default: the method's.")
    ] = "",
    apart: Annotated[bool, typer.Option("--apart", help="Segments do not compete for slots.")] = False,
    model: FileModel = "",
    dtype: FileDtype = "",
    device: Device = "cpu",
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Makes a compact context more compact, without reading the session again."""
    from holdfast.compaction.recompact import recompact as recompact_context
    from holdfast.errors import BadOption

    if ratio is not None:
        check_ratio(ratio)
    if (ratio is None) == (slots is None):
        raise BadOption("give either --ratio or --slots")
    engine, (context,) = open_contexts([file], output, (model, dtype, device), force)
    with console.progress(f"tightening {file.name}") as report:
        smaller = recompact_context(
            context, engine, ratio=ratio, slots=slots, allocation=allocation, apart=apart, progress=report
        )
    save_context(smaller, output, engine, force, as_json)
