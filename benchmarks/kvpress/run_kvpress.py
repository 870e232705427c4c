"""NVIDIA's kvpress beside our own methods: the same model, windows, budgets and probes, the same rows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import rivals  # imports kvpress, which wraps the attention functions that it finds: before a model is adopted
import typer
from check import TOLERANCE, check

from holdfast import outputs
from holdfast.blocks.render import render
from holdfast.cli import console
from holdfast.cli.main import fail
from holdfast.cli.options import Device, Dtype, Model, check_ratio
from holdfast.engine.local import LocalEngine
from holdfast.errors import BadOption, HoldfastError
from holdfast.eval.probes import read_probes
from holdfast.eval.run import Run, measure, transcripts_in
from holdfast.model.bundled_models import DEFAULT
from holdfast.transcript.read import read

TASKDECK = Path(__file__).parents[2] / "examples" / "taskdeck"


def main(  # noqa: PLR0913, PLR0917 - its parameters are its options
    transcripts: Annotated[Path, typer.Option(help="A session, or a folder of sessions.")] = TASKDECK / "session.json",
    probes: Annotated[Path, typer.Option(help="Questions about them.")] = TASKDECK / "probes.jsonl",
    out: Annotated[
        Path | None, typer.Option(help="Rows are appended here; a run that was interrupted goes on.")
    ] = None,
    method: Annotated[list[str] | None, typer.Option(help="Rivals or methods of ours; default: all rivals.")] = None,
    ratio: Annotated[list[float], typer.Option(help="Tokens per slot of the compacted span.")] = [8.0],  # noqa: B006
    window: Annotated[int, typer.Option(help="Tokens of a window around the probes.")] = 4096,
    limit: Annotated[int | None, typer.Option(help="Ask only so many probes.")] = None,
    seed: Annotated[int, typer.Option(help="Of the sampling of probes.")] = 0,
    model: Model = DEFAULT,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    checking: Annotated[bool, typer.Option("--check", help="Compare logits with kvpress itself, then stop.")] = False,
) -> None:
    """Measures kvpress's presses, or with --check shows that they run here as kvpress runs them."""
    names = rivals.register()
    if checking:
        compare(console.engine(model, dtype, device), transcripts)
        return
    if out is None:
        raise BadOption("--out is missing: a file for the rows")
    outputs.check_rows(out, probes, transcripts)
    ratios = tuple(check_ratio(r) for r in ratio)
    asked, files = tuple(read_probes(probes)), transcripts_in(transcripts)
    job = Run(files, asked, tuple(method or names), ratios, window=window, limit=limit, seed=seed)
    engine = console.engine(model, dtype, device)
    with console.progress() as report:
        written = measure(job, engine, out, report, console.say)
    console.line(f"{written} rows written to {out}; next: holdfast eval score {out}")


def compare(engine: LocalEngine, transcripts: Path) -> None:
    """Prints the largest difference of logits for each rival; exits with code 1 beyond the tolerance."""
    rendered = render(read(transcripts_in(transcripts)[0]), engine.model.tokenizer)
    apart = check(engine, rendered)
    console.line(f"largest difference of next-token logits, at most {TOLERANCE:g} allowed")
    console.line(f"{'':32}{'kvpress alone':>15}{'behind a prefix':>18}")
    for name, (whole, behind) in apart.items():
        console.line(f"{name:32}{whole:15.1e}{behind:18.1e}")
    if not all(difference <= TOLERANCE for pair in apart.values() for difference in pair):
        raise typer.Exit(1)


if __name__ == "__main__":
    try:
        typer.run(main)
    except HoldfastError as error:
        fail(str(error), error.exit_code)
