"""The options of commands that spread their work over a Ray cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from holdfast.parallel import RayCluster

SECONDS = 3600.0
Ray = Annotated[bool, typer.Option("--ray", help="Spread the work over a Ray cluster (extra `ray`).")]
Address = Annotated[
    str,
    typer.Option("--ray-address", help="HOST:PORT of a cluster, or auto; default: one is started here for the run."),
]
Timeout = Annotated[float, typer.Option("--task-timeout", help="Seconds of one piece of work, with --ray.")]


def of(ray: bool, address: str, seconds: float, device: str = "cpu") -> RayCluster | None:
    """The fleet of these options, checked before any work; None where the work stays in this process.

    Raises BadOption where Ray is not installed.
    """
    if not (ray or address):
        return None
    from holdfast.parallel import RayCluster, check_installed

    check_installed()
    return RayCluster(address, seconds, gpus=1.0 if device.startswith("cuda") else 0.0)
