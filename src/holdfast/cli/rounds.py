"""Commands about contexts that are already compact: recompact, join."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from holdfast.cli import console, outputs
from holdfast.cli.console import AsJson, Device

if TYPE_CHECKING:
    from holdfast.context.segments import CompactContext
    from holdfast.engine.local import LocalEngine

Output = Annotated[Path, typer.Option("-o", "--output", help="Where the context goes, e.g. out.holdfast.")]
OwnModel = Annotated[str, typer.Option("--model", help="Default: the model that made the file.")]
OwnDtype = Annotated[str, typer.Option("--dtype", help="Default: as the file was made.")]


def add_to(app: typer.Typer) -> None:
    """Register the commands of this file."""
    for command in (recompact, join):
        app.command()(command)


def recompact(
    file: Annotated[Path, typer.Argument(help="A .holdfast file.")],
    output: Output,
    ratio: Annotated[float | None, typer.Option(help="Tokens per slot of everything compacted.")] = None,
    slots: Annotated[int | None, typer.Option(help="Slots per head instead, on average.")] = None,
    allocation: Annotated[
        str, typer.Option(help="global, layer or head: what keeps its part of the slots. Default: the method's.")
    ] = "",
    apart: Annotated[bool, typer.Option("--apart", help="Segments do not compete for slots.")] = False,
    model: OwnModel = "",
    dtype: OwnDtype = "",
    device: Device = "cpu",
    force: outputs.Force = False,
    as_json: AsJson = False,
) -> None:
    """Make a compact context more compact, without reading the session again."""
    from holdfast.compaction.recompact import recompact as tighten
    from holdfast.errors import BadOption

    if ratio is not None:
        console.checked_ratio(ratio)
    if (ratio is None) == (slots is None):
        raise BadOption("give either --ratio or --slots")
    engine, (context,) = _opened([file], output, (model, dtype, device), force)
    made = tighten(context, engine, ratio=ratio, slots=slots, allocation=allocation, apart=apart)
    _written(made, output, engine, force, as_json)


def join(
    files: Annotated[list[Path], typer.Argument(help="Two or more .holdfast files, in order.")],
    output: Output,
    drop_head: Annotated[
        bool, typer.Option("--drop-head", help="Leave out the system prompt of all but the first.")
    ] = False,
    model: OwnModel = "",
    dtype: OwnDtype = "",
    device: Device = "cpu",
    force: outputs.Force = False,
    as_json: AsJson = False,
) -> None:
    """Put contexts one after another. The later ones' slots have not seen the earlier ones."""
    from holdfast.compaction.recompact import join as compose
    from holdfast.errors import BadOption

    if len(files) < 2:
        raise BadOption(f"join needs at least two files, got {len(files)}")
    engine, contexts = _opened(files, output, (model, dtype, device), force)
    _written(compose(contexts, engine, drop_head=drop_head), output, engine, force, as_json)


def _opened(
    files: list[Path], output: Path, model: tuple[str, str, str], force: bool
) -> tuple[LocalEngine, list[CompactContext]]:
    """The files' contexts and the engine that made them. Raises before any work where `output` cannot be written."""
    from holdfast.compaction.compact import restore
    from holdfast.context.store import read_manifest
    from holdfast.errors import BadOption
    from holdfast.model.bundled_models import BUNDLES

    outputs.check_output(output, *files, force=force)
    name, dtype, device = model
    first, *_ = [read_manifest(file) for file in files]
    if not name and first.model not in BUNDLES:  # a file from elsewhere does not choose what is loaded here
        raise BadOption(f"{files[0]} says that it was made with {first.model!r}; pass it with --model if you trust it")
    engine = console.engine(name or first.model, dtype or first.dtype, device)
    return engine, [restore(file, engine) for file in files]


def _written(context: CompactContext, output: Path, engine: LocalEngine, force: bool, as_json: bool) -> None:
    outputs.save_context(context, output, engine, force)
    held = context.evidence
    if as_json:
        console.emit({"output": str(output), **held, "recipe": context.recipe})
        return
    console.line(
        f"{output} written: {held['tokens']:,} tokens, {held['bytes'] / 1e6:,.1f} MB of {held['bytes_full'] / 1e6:,.1f}"
    )
