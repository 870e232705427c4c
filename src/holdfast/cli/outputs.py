"""Where a command writes: checked before any work, and written so that nothing is lost."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from holdfast.errors import BadOption

if TYPE_CHECKING:
    from holdfast.context.segments import CompactContext
    from holdfast.engine.local import LocalEngine

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


def check_output(path: Path, *inputs: Path, force: bool = False) -> None:
    """Raise BadOption or BadInput, before any work, where `path` cannot become a file, is one of the inputs, or stands
    there already, without `force`."""
    from holdfast.text.file_log.log import check_output as check

    if not path.name or path.is_dir() or not path.parent.is_dir():
        raise BadOption(f"{path}: give a file in a folder that exists")
    if any(path.exists() and given.exists() and path.samefile(given) for given in inputs):
        raise BadOption(f"{path} is the input; give another name for the output")
    check(path, force)


def check_rows(path: Path, *inputs: Path) -> None:
    """Raise as `check_output` does, for a file of rows, to which more are appended."""
    check_output(path, *inputs, force=True)


def write_output(path: Path, data: bytes, force: bool = False) -> None:
    """Write a file. Raises BadInput where something stands there; with `force` that goes to the log beside it first."""
    from holdfast.text.file_log import write_session

    write_session.write_output(path, data, force=force)


def save_context(context: CompactContext, path: Path, engine: LocalEngine, force: bool = False) -> None:
    """Write a `.holdfast` file, as `write_output` does."""
    from holdfast.compaction.compact import save
    from holdfast.context.store import to_bytes

    if path.exists():
        write_output(path, to_bytes(context, engine.model), force)
    else:
        save(context, path, engine)
