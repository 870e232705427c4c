"""Checks outputs before any work, and writes them so that nothing is lost."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from holdfast.errors import BadOption
from holdfast.progress import Progress, quiet

if TYPE_CHECKING:
    from holdfast.context.segments import CompactContext
    from holdfast.engine.local import LocalEngine


def check_output(path: Path, *inputs: Path, force: bool = False) -> None:
    """Raises BadOption or BadInput, before any work, if `path` cannot become a file, is one of the inputs, or stands
    there already, without `force`."""
    from holdfast.text.file_log.log import check_output as check

    if not path.name or path.is_dir() or not path.parent.is_dir():
        raise BadOption(f"{path}: give a file in a folder that exists")
    if any(path.exists() and given.exists() and path.samefile(given) for given in inputs):
        raise BadOption(f"{path} is the input; give another name for the output")
    check(path, force)


def check_rows(path: Path, *inputs: Path) -> None:
    """Raises as `check_output` does, for a file of rows, to which more are appended."""
    check_output(path, *inputs, force=True)


def write_output(path: Path, data: bytes, force: bool = False) -> None:
    """Writes a file. Raises BadInput if something stands there; with `force` that goes to the log beside it first."""
    from holdfast.text.file_log import write_session

    write_session.write_output(path, data, force=force)


def save_context(
    context: CompactContext, path: Path, engine: LocalEngine, force: bool = False, progress: Progress = quiet
) -> None:
    """Writes a `.holdfast` file, as `write_output` does."""
    from holdfast.compaction.compact import save
    from holdfast.context.holdfast_file import to_bytes

    if path.exists():
        write_output(path, to_bytes(context, engine.model, progress), force)
    else:
        save(context, path, engine, progress)
