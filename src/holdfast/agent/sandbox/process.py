"""A command as a process group of this machine, with its limits on processes and memory looked after from outside."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from holdfast.agent.sandbox.base import Rights


@dataclass
class Child:
    """A command as a process of ours."""

    process: subprocess.Popen[bytes]
    rights: Rights
    output: int = field(init=False)
    pid: int = field(init=False)

    def __post_init__(self) -> None:
        assert self.process.stdout is not None
        self.output, self.pid = self.process.stdout.fileno(), self.process.pid

    def wait(self) -> int:
        return self.process.wait()

    def excess(self) -> str:
        count, memory = measure_tree(self.pid)
        if count > self.rights.processes:
            return f"it started more than {self.rights.processes} processes"
        return f"it took more than {self.rights.memory >> 20} MiB" if memory > self.rights.memory else ""

    def close(self) -> None:
        assert self.process.stdout is not None
        self.process.stdout.close()


def start_child(arguments: Sequence[str], rights: Rights, environment: Mapping[str, str]) -> Child:
    """Starts a program in a process group of its own."""
    process = subprocess.Popen(
        arguments,
        cwd=rights.work,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    return Child(process, rights)


def measure_tree(root: int) -> tuple[int, int]:
    """Returns how many processes descend from one, itself counted, and the bytes of memory that they hold."""
    parents: dict[int, list[tuple[int, int]]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, IndexError):
            fields = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()
            parents.setdefault(int(fields[1]), []).append((int(folder.name), int(fields[21])))
    found, pages, count = [root], 0, 1
    while found:
        for child, resident in parents.get(found.pop(), ()):
            found.append(child)
            pages, count = pages + resident, count + 1
    return count, pages * os.sysconf("SC_PAGE_SIZE")


def end_group(pid: int) -> None:
    """Ends every process of a group, at once."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
