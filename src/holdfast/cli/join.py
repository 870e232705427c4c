"""`holdfast join`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli import console
from holdfast.cli.context_files import open_contexts, save_context
from holdfast.cli.options import AsJson, ContextOutput, Device, FileDtype, FileModel, Force


def join(
    files: Annotated[list[Path], typer.Argument(help="Two or more .holdfast files, in order.")],
    output: ContextOutput,
    drop_head: Annotated[
        bool, typer.Option("--drop-head", help="Leave out the system prompt of all but the first.")
    ] = False,
    model: FileModel = "",
    dtype: FileDtype = "",
    device: Device = "cpu",
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Puts contexts one after another. The later ones' slots have not seen the earlier ones."""
    from holdfast.compaction.recompact import join as join_contexts
    from holdfast.errors import BadOption

    if len(files) < 2:
        raise BadOption(f"join needs at least two files, got {len(files)}")
    engine, contexts = open_contexts(files, output, (model, dtype, device), force)
    with console.progress(f"joining {len(contexts)} contexts") as report:
        whole = join_contexts(contexts, engine, drop_head=drop_head, progress=report)
    save_context(whole, output, engine, force, as_json)
