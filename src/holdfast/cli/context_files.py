"""Reads, checks and writes the `.holdfast` files that commands are given."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from holdfast import outputs
from holdfast.cli import console
from holdfast.cli.evidence import describe_bytes

if TYPE_CHECKING:
    from holdfast.context.holdfast_file import Manifest
    from holdfast.context.segments import CompactContext
    from holdfast.engine.local import LocalEngine


def read_context_manifest(file: Path) -> Manifest:
    """Returns the manifest of a `.holdfast` file. Raises BadOption, with the next step, for a session."""
    from holdfast.context.holdfast_file import read_manifest
    from holdfast.errors import BadContext, BadOption, HoldfastError
    from holdfast.transcript.read import is_text, read

    try:
        return read_manifest(file)
    except BadContext:
        if not is_text(file):
            raise
        try:
            read(file, lenient=True)
        except HoldfastError:
            raise BadOption(f"{file} is no .holdfast file; `holdfast compact` makes one from a session") from None
    context = f"{file.stem}.holdfast"
    raise BadOption(f"{file} is a session; compact it first: holdfast compact {file} -o {context}, then give {context}")


def model_for(file: Path, manifest: Manifest, model: str) -> str:
    """Returns the model to load: `model` if given, else the bundled one that made the file.

    Raises BadOption for any other, because a file from elsewhere does not choose what is loaded here.
    """
    from holdfast.errors import BadOption
    from holdfast.model.bundled_models import BUNDLES

    if not model and manifest.model not in BUNDLES:
        raise BadOption(f"{file} says that it was made with {manifest.model!r}; pass it with --model if you trust it")
    return model or manifest.model


def open_contexts(
    files: list[Path], output: Path, model: tuple[str, str, str], force: bool
) -> tuple[LocalEngine, list[CompactContext]]:
    """Returns the engine that made the files, and their contexts. Raises, before any work, if `output` is unusable."""
    from holdfast.compaction.compact import restore
    from holdfast.model.dtype import choose_recorded_dtype

    outputs.check_output(output, *files, force=force)
    name, dtype, device = model
    first, *_ = [read_context_manifest(file) for file in files]
    dtype = dtype or choose_recorded_dtype(first.dtype, device)
    engine = console.engine(model_for(files[0], first, name), dtype, device)
    with console.progress(f"reading {files[0].name}") as report:
        return engine, [restore(file, engine, report) for file in files]


def save_context(context: CompactContext, output: Path, engine: LocalEngine, force: bool, as_json: bool) -> None:
    """Writes a context and prints its size."""
    with console.progress(f"writing {output.name}") as report:
        outputs.save_context(context, output, engine, force, report)
    evidence = context.evidence
    if as_json:
        console.emit({"output": str(output), **evidence, "recipe": context.recipe})
        return
    console.line(f"{output} written: {evidence['tokens']:,} tokens, {describe_bytes(evidence)}")
