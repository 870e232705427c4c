"""Finds the processes that have a file open to write, by `/proc` of Linux, as far as its permissions reach."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_PROC = Path("/proc")
_LOOKS = 400
"""How often a file is looked at until it is released; a look takes milliseconds."""


def writers(path: Path) -> dict[int, str]:
    """Returns the names of the other processes that have the file open to write, by their ids; empty if the system does
    not tell.
    """
    try:
        held = path.stat()
    except FileNotFoundError:
        return {}
    return {process: _name(process) for process in _processes() if _writes(process, (held.st_dev, held.st_ino))}


def keepers(path: Path) -> dict[int, str]:
    """Returns those of the writers that keep the file open, and did not only happen to be writing a line."""
    first = writers(path)
    return {process: name for process, name in writers(path).items() if process in first} if first else {}


def is_released(path: Path) -> bool:
    """Returns True if no other process has the file open to write, at once or after some more looks."""
    return any(not writers(path) for _ in range(_LOOKS))


def _processes() -> Iterator[int]:
    if _PROC.is_dir():
        yield from (int(name) for name in os.listdir(_PROC) if name.isdecimal() and int(name) != os.getpid())  # noqa: PTH208


def _writes(process: int, file: tuple[int, int]) -> bool:
    folder = f"{_PROC}/{process}/fd"
    with suppress(OSError):  # another user's process, or one that has ended
        for number in os.listdir(folder):  # noqa: PTH208
            with suppress(OSError):
                held = os.stat(f"{folder}/{number}")  # noqa: PTH116
                if (held.st_dev, held.st_ino) == file and _to_write(process, number):
                    return True
    return False


def _to_write(process: int, number: str) -> bool:
    told = Path(f"{_PROC}/{process}/fdinfo/{number}").read_text(encoding="ascii")
    flags = next(int(line.split()[1], 8) for line in told.splitlines() if line.startswith("flags:"))
    return flags & os.O_ACCMODE != os.O_RDONLY


def _name(process: int) -> str:
    with suppress(OSError):
        return (_PROC / str(process) / "comm").read_text(encoding="utf-8", errors="replace").strip()
    return "?"
