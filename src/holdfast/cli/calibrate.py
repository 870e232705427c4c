"""`holdfast calibrate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from holdfast import outputs
from holdfast.cli import console
from holdfast.cli.options import DEFAULT_METHOD, DEFAULT_MODEL, AsJson, Device, Dtype, Force, Model


def calibrate(
    sessions: Annotated[list[Path], typer.Argument(help="Sessions like those that will be compacted.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Default: where the model's are looked for.")
    ] = None,
    latent: Annotated[str, typer.Option(help="Method whose scores say what a head deserves.")] = DEFAULT_METHOD,
    window: Annotated[int, typer.Option(help="Tokens of a window.")] = 2048,
    limit: Annotated[int, typer.Option(help="Most windows to read.")] = 8,
    model: Model = DEFAULT_MODEL,
    dtype: Dtype = "auto",
    device: Device = "cpu",
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Learns which share of the budget each head of a model deserves (for allocation=learned)."""
    from holdfast.compaction.calibrate import calibrate as learn_shares
    from holdfast.context.allocation import save_shares, shares_json
    from holdfast.methods.eviction import shares_path
    from holdfast.methods.registry import build
    from holdfast.transcript.read import read

    build(latent)
    if output:
        outputs.check_output(output, *sessions, force=force)
    transcripts = [read(path) for path in sessions]
    engine = console.engine(model, dtype, device)
    with console.progress("calibrating") as report:
        shares = learn_shares(transcripts, engine, latent, window, limit, report)
    path = output or shares_path("", engine)
    if output:
        outputs.write_output(output, shares_json(engine.model.digest, shares), force)
    else:
        save_shares(path, engine.model.digest, shares)
    flat = sorted((x for row in shares.values() for x in row), reverse=True)
    facts = {"output": str(path), "heads": len(flat), "largest_over_mean": flat[0] * len(flat)}
    facts["top_tenth_holds"] = sum(flat[: max(1, len(flat) // 10)])
    if as_json:
        console.emit(facts)
        return
    console.line(
        f"{path}: {len(flat)} heads; the largest gets {facts['largest_over_mean']:.1f} times the mean, the top tenth "
        f"{facts['top_tenth_holds']:.0%} of all; use it: --latent snapkv:allocation=learned"
    )
