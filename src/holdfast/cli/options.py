"""Options that several commands share, and the checks of their values."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from holdfast.blocks.block import Kind
from holdfast.errors import BadOption

if TYPE_CHECKING:
    from holdfast.parallel import RayCluster

DEFAULT_MODEL = "smollm2-135m"
DEFAULT_METHOD = "surrogate:otherwise=informed"  # the surrogate where the model has one, else the full method
DEFAULT_PINS = "system,task,user"
DEFAULT_RATIO = 8.0
TASK_SECONDS = 3600.0

Model = Annotated[
    str,
    typer.Option(
        "--model",
        help="smollm2-135m, qwen2.5-coder-0.5b, … (holdfast models), a folder, a .gguf file or a Hugging Face id.",
    ),
]
Dtype = Annotated[
    str,
    typer.Option(help="auto (bfloat16 where the hardware multiplies it, else float32), float32, bfloat16 or float16."),
]
Verbatim = Annotated[
    str, typer.Option(help="Form in which the states of verbatim text are held: model, bfloat16, int8 or int4.")
]
Device = Annotated[str, typer.Option(help="cpu, cuda, mps, …")]
FileModel = Annotated[str, typer.Option("--model", help="Default: the model that made the file.")]
FileDtype = Annotated[str, typer.Option("--dtype", help="Default: as the file was made, where the device can.")]
Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        help="holdfast.toml with the models to ask. Default: $HOLDFAST_CONFIG, else of your Holdfast folder.",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]
OneOf = Annotated[
    int, typer.Option("--session", min=0, help="Of a file of several sessions: which, from 1.", show_default=False)
]
ContextOutput = Annotated[Path, typer.Option("-o", "--output", help="Where the context goes, e.g. out.holdfast.")]
CompactedSession = Annotated[Path, typer.Argument(help="A session that was compacted.")]
Force = Annotated[
    bool,
    typer.Option(
        "--force", help="Overwrite the output where it stands already; `holdfast undo` brings the old one back."
    ),
]
ForceInPlace = Annotated[
    bool,
    typer.Option(
        "--force", help="Also where an agent has the session open, or the output stands already (see `undo`)."
    ),
]

Ray = Annotated[bool, typer.Option("--ray", help="Spread the work over a Ray cluster (extra `ray`).")]
RayAddress = Annotated[
    str,
    typer.Option("--ray-address", help="HOST:PORT of a cluster, or auto; default: one is started here for the run."),
]
TaskTimeout = Annotated[float, typer.Option("--task-timeout", help="Seconds of one piece of work, with --ray.")]


def ray_cluster(ray: bool, address: str, seconds: float, device: str = "cpu") -> RayCluster | None:
    """Returns the cluster of the Ray options, or None if the work stays in this process.

    Raises BadOption, before any work, if Ray is not installed.
    """
    if not (ray or address):
        return None
    from holdfast.parallel import RayCluster, check_installed

    check_installed()
    return RayCluster(address, seconds, gpus=1.0 if device.startswith("cuda") else 0.0)


def read_kinds(text: str) -> tuple[Kind, ...]:
    """Returns the kinds of block of `KIND,KIND,…` or `none`. Raises BadOption for an unknown kind."""
    names = [name.strip() for name in text.split(",") if name.strip() not in ("", "none")]
    for name in names:
        if name not in tuple(Kind):
            raise BadOption(f"--pin: no kind of block is called {name!r}; there are: {', '.join(Kind)}")
    return tuple(Kind(name) for name in names)


def check_ratio(ratio: float) -> float:
    """Returns `ratio`. Raises BadOption if it is not a finite number of at least 1."""
    if not 1 <= ratio < float("inf"):
        raise BadOption(f"--ratio must be a number of at least 1, got {ratio}; 8 keeps an eighth of the slots")
    return ratio


def read_share(text: str, option: str = "--allow-over") -> float:
    """Returns `10%` or `0.1` as a part of one. Raises BadOption for anything else."""
    try:
        return float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError as error:
        raise BadOption(f"{option} must be a share such as 10%, got {text!r}") from error
