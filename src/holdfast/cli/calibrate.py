"""`holdfast calibrate`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast import outputs
from holdfast.cli import console
from holdfast.cli.options import DEFAULT_MODEL, AsJson, Device, Dtype, Force, Model
from holdfast.errors import BadInput, BadOption

if TYPE_CHECKING:
    from holdfast.engine.local import LocalEngine
    from holdfast.transcript.turn import Transcript

LEARN = ("shares", "surrogate", "bases")


def calibrate(
    sessions: Annotated[list[Path], typer.Argument(help="Sessions like those that will be compacted.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Default: where the model's are looked for.")
    ] = None,
    learn: Annotated[
        str,
        typer.Option(
            help="shares: each head's part of a budget (allocation=learned); surrogate: a network that predicts the "
            "scores of a method, so that compaction needs no extra pass (for --latent surrogate); bases: turns of keys "
            "and values in which few bits hold them (storage=coded)."
        ),
    ] = "shares",
    latent: Annotated[str, typer.Option(help="Method whose scores are learned from.")] = "informed",
    labels: Annotated[
        str, typer.Option(help="surrogate: learn the scores of the method, of the session's later turns, or both.")
    ] = "method",
    texts: Annotated[
        list[Path] | None,
        typer.Option(help="surrogate: more texts: a file, or .jsonl with the field text. Repeatable."),
    ] = None,
    window: Annotated[
        int | None, typer.Option(help="Tokens of a window. Default: 2048, surrogate and bases 1024.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="Most windows to read. Default: 8, surrogate 128, bases 32.")
    ] = None,
    hidden: Annotated[int, typer.Option(help="surrogate: units of each layer's network.")] = 128,
    seed: Annotated[int, typer.Option(help="surrogate: of windows and training.")] = 0,
    model: Model = DEFAULT_MODEL,
    dtype: Dtype = "auto",
    device: Device = "cpu",
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Learns, once per model, what makes compaction better (shares), nearly free (surrogate) or smaller (bases)."""
    from holdfast.methods.registry import build
    from holdfast.transcript.read import read

    if learn not in LEARN:
        raise BadOption(f"--learn must be one of {', '.join(LEARN)}, got {learn!r}")
    if learn != "surrogate" and texts:
        raise BadOption(f"--texts is for --learn surrogate; {learn} are learned from sessions")
    build(latent)
    if output:
        outputs.check_output(output, *sessions, force=force)
    if learn == "surrogate":
        from holdfast.compaction.train_surrogate import SurrogateTraining

        training = SurrogateTraining(
            latent, labels, 128 if limit is None else limit, 1024 if window is None else window, hidden, seed=seed
        )
        plain = [text for path in texts or () for text in _read_texts(path)]
    transcripts = [read(path) for path in sessions]
    engine = console.engine(model, dtype, device)
    if learn == "surrogate":
        _learn_surrogate(transcripts, plain, engine, training, output, force, as_json)
    elif learn == "bases":
        _learn_bases(transcripts, engine, limit, window, output, force, as_json)
    else:
        _learn_shares(
            transcripts,
            engine,
            (latent, 2048 if window is None else window, 8 if limit is None else limit),
            output,
            force,
            as_json,
        )


def _learn_shares(
    transcripts: list[Transcript],
    engine: LocalEngine,
    settings: tuple[str, int, int],
    output: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    from holdfast.compaction.calibrate import calibrate as learn_shares
    from holdfast.context.allocation import save_shares, shares_json
    from holdfast.methods.eviction import shares_path

    with console.progress("calibrating") as report:
        shares = learn_shares(transcripts, engine, *settings, report)
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


def _learn_surrogate(
    transcripts: list[Transcript],
    texts: list[str],
    engine: LocalEngine,
    training: Any,
    output: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    from holdfast.blocks.render import render
    from holdfast.compaction.train_surrogate import train_surrogate
    from holdfast.methods.surrogate_network import network_bytes, own_network_path, save_network

    words = engine.model.tokenizer
    streams = [list(render(transcript, words).ids) for transcript in transcripts]
    streams += [words(text, add_special_tokens=False)["input_ids"] for text in texts]
    with console.progress("learning") as report:
        network = train_surrogate(streams, engine, training, report)
    path = output or own_network_path(engine.model.digest)
    if output:
        outputs.write_output(output, network_bytes(network), force)
    else:
        save_network(network, path)
    if as_json:
        console.emit({"output": str(path), "megabytes": path.stat().st_size / 1e6, **network.recipe})
        return
    overlap = ", ".join(f"{share:.0%} at {ratio}" for ratio, share in network.recipe["overlap"].items())
    console.line(
        f"{path} ({path.stat().st_size / 1e6:.1f} MB), from {network.recipe['tokens']:,} tokens; on other windows it "
        f"keeps what {training.method} keeps: {overlap}; use it: --latent surrogate"
        + (f":weights={path}" if output else "")
    )


def _learn_bases(
    transcripts: list[Transcript],
    engine: LocalEngine,
    limit: int | None,
    window: int | None,
    output: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    from holdfast.blocks.render import render
    from holdfast.compaction.learn_bases import WINDOW, WINDOWS, learn_bases
    from holdfast.model.state_bases import bases_bytes, save_bases

    streams = [render(transcript, engine.model.tokenizer).ids for transcript in transcripts]
    with console.progress("learning") as report:
        sizes = (WINDOWS if limit is None else limit, WINDOW if window is None else window)
        bases = learn_bases(streams, engine, *sizes, report)
    if output:
        outputs.write_output(output, bases_bytes(bases), force)
    path = output or save_bases(bases)
    facts = {"output": str(path), "megabytes": path.stat().st_size / 1e6, **bases.recipe}
    if as_json:
        console.emit(facts)
        return
    console.line(
        f"{path} ({facts['megabytes']:.1f} MB), from {bases.recipe['tokens']:,} tokens; use it: METHOD:storage=coded"
    )


def _read_texts(path: Path) -> Iterator[str]:
    """Yields the texts of a file: the field `text` of every line of a .jsonl file, else all of it."""
    try:
        whole = path.read_text()
        if path.suffix != ".jsonl":
            yield whole
            return
        for line in filter(str.strip, whole.splitlines()):
            yield json.loads(line)["text"]
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"cannot read the texts in {path}: {error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(
            f'{path} has a line without a field text ({error}); give JSON lines such as {{"text": …}}'
        ) from error
