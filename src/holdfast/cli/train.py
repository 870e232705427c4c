"""`holdfast train`."""

from __future__ import annotations

import tomllib
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.cli import console
from holdfast.cli.options import DEFAULT_MODEL, AsJson, Device, Dtype, Model
from holdfast.errors import BadInput, BadOption

if TYPE_CHECKING:
    from holdfast.model.checkpoint import Checkpoint


def train(
    kind: Annotated[str, typer.Argument(help="What to train, e.g. icae.")],
    data: Annotated[list[Path], typer.Argument(help="Texts, questions or sessions: files, or folders of them.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the run; one that exists goes on.")],
    settings: Annotated[
        Path | None, typer.Option("--settings", help="TOML file of settings; --set goes before it.", show_default=False)
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="NAME=VALUE of a recipe or of the loop, e.g. memory=4, rate=1e-4. Repeatable."),
    ] = None,
    judge: Annotated[int, typer.Option(help="Held-out texts that judge it while it trains; 0 judges nothing.")] = 32,
    model: Model = DEFAULT_MODEL,
    dtype: Dtype = "auto",
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Trains a compressor for a model; what it writes is loaded as --latent KIND:weights=FOLDER. Ctrl-C saves."""
    _check_installed()
    from holdfast.learn.kinds import Recipe
    from holdfast.learn.loop import Training
    from holdfast.learn.run import run_training

    given = {"kind": kind, **_read_settings(settings, set_ or [])}
    unknown = sorted(set(given) - {f.name for shape in (Recipe, Training) for f in fields(shape)})
    if unknown:
        known = ", ".join(f.name for shape in (Recipe, Training) for f in fields(shape) if f.name != "kind")
        raise BadOption(f"there is no setting {unknown[0]!r}; there are: {known}")
    recipe, training = _build(Recipe, given), _build(Training, given)
    engine = console.engine(model, dtype, device)
    with console.progress("training") as report:
        done = run_training(recipe, training, engine.model, data, output, judge, report)
    _report(done, output, kind, as_json)


def _report(done: Checkpoint, output: Path, kind: str, as_json: bool) -> None:
    if as_json:
        console.emit({"output": str(output), "checkpoint": str(done.folder), **done.manifest})
        return
    console.line(f"{done.folder}: step {done.step}; use it: --latent {kind}:weights={output}")


def _read_settings(path: Path | None, given: list[str]) -> dict[str, Any]:
    try:
        found = tomllib.loads(path.read_text()) if path else {}
    except (OSError, ValueError) as error:
        raise BadInput(f"cannot read the settings in {path}: {error}; give a TOML file of NAME = VALUE") from error
    for pair in given:
        name, equals, value = pair.partition("=")
        if not equals:
            raise BadOption(f"--set needs NAME=VALUE, got {pair!r}")
        found[name.strip()] = value.strip()
    return found


def _build(shape: type[Any], given: dict[str, Any]) -> Any:
    """Returns a dataclass of settings from texts or values of TOML. Raises BadOption for one of another type."""
    kinds = {f.name: str(f.type) for f in fields(shape)}
    return shape(**{name: _convert(name, value, kinds[name]) for name, value in given.items() if name in kinds})


def _convert(name: str, value: Any, kind: str) -> Any:
    words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    try:
        if kind == "bool":
            return words[str(value).lower()]
        return {"int": int, "float": float, "str": str}[kind](value)
    except (KeyError, ValueError) as error:
        raise BadOption(f"{name} must be of type {kind}, got {value!r}") from error


def _check_installed() -> None:
    """Raises BadOption where the extra is missing."""
    from importlib.util import find_spec

    missing = [name for name in ("peft", "torchdata", "accelerate") if find_spec(name) is None]
    if missing:
        raise BadOption(f"training needs {', '.join(missing)}; install it: pip install 'holdfast[learn]'")
