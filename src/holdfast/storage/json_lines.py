"""Files of one JSON object a line, as pydantic models: appended line by line, and read after an interrupted run."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from holdfast.errors import BadInput
from holdfast.storage.files import Lines

Line = TypeVar("Line", bound=BaseModel)


def read_lines(path: str | Path, kind: type[Line], warn: Callable[[str], object]) -> list[Line]:
    """Returns every line of a file as a `kind`. A last line that was cut short is left out, with a warning.

    Raises BadInput, with the number of the line, for anything else that is not a `kind`.
    """
    return list(_lines(Path(path), kind, warn))


def has_line(path: Path) -> bool:
    """Returns True if a file is there and holds a whole line, not only what a run that was killed left of its first."""
    return path.exists() and b"\n" in path.read_bytes()


def append_line(path: str | Path, line: BaseModel) -> None:
    """Adds one line in one write, after dropping what an interrupted run may have left half-written."""
    with Lines(Path(path)) as lines:
        lines.append(line.model_dump_json())


def _lines(path: Path, kind: type[Line], warn: Callable[[str], object]) -> Iterator[Line]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadInput(f"{path}: cannot be read as rows: {error.strerror}") from error
    lines = data.split(b"\n")
    for number, line in enumerate(lines, start=1):
        cut_short = number == len(lines) and not _is_json(line)
        if line.strip() and cut_short:
            warn(f"{path}:{number}: the last line is incomplete and was left out; resume the run to measure it")
        elif line.strip():
            yield _parse(line, kind, f"{path}:{number}")


def _parse(line: bytes, kind: type[Line], where: str) -> Line:
    try:
        return kind.model_validate_json(line)
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(map(str, fault['loc'])) or 'line'}: {fault['msg']}" for fault in error.errors()[:3]
        )
        message = f"{where}: expected one JSON object a line as written by `holdfast`; {faults}"
        raise BadInput(message) from error


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:  # also what a cut in the middle of a UTF-8 character raises
        return False
    return True
