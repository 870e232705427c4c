"""The contract of a sandbox: what a command may do, and a process whose output is read while it runs."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib64", "/lib32", "/opt", "/nix/store")
"""Folders of programs and libraries, which every command may read."""
SETTINGS = frozenset(
    {
        "alternatives",
        "bash.bashrc",
        "ca-certificates",
        "environment",
        "fonts",
        "gitconfig",
        "group",
        "hosts",
        "ld.so.cache",
        "ld.so.conf",
        "ld.so.conf.d",
        "locale.alias",
        "localtime",
        "magic",
        "mime.types",
        "nsswitch.conf",
        "os-release",
        "passwd",
        "perl",
        "pki",
        "profile",
        "protocols",
        "resolv.conf",
        "services",
        "shells",
        "ssl",
        "terminfo",
        "timezone",
    }
)
"""Names in /etc that programs need; the rest, where passwords and keys are, is not readable."""


@dataclass(frozen=True)
class Rights:
    """The rights of a command: the rest of the machine it neither reads nor changes."""

    work: Path
    """The work tree, which it may change."""
    scratch: Path
    """A folder for temporary files, and its home."""
    read: tuple[Path, ...] = ()
    """Further files and folders that it may read."""
    write: tuple[Path, ...] = ()
    """Further folders that it may change."""
    network: bool = False
    memory: int = 4 << 30
    """Bytes."""
    processes: int = 256

    def readable(self) -> list[str]:
        """Returns the system's files and folders that exist here, with those that the user added."""
        programs = ("python*", "java*", "node*")  # settings of languages, by version
        found = (str(path) for pattern in programs for path in Path("/etc").glob(pattern))
        settings = (*(f"/etc/{name}" for name in sorted(SETTINGS)), *found)
        return [path for path in (*SYSTEM, *settings, *map(str, self.read)) if Path(path).exists()]


class Running(Protocol):
    """A command that runs."""

    pid: int
    output: int
    """The descriptor of stdout and stderr in one."""

    def wait(self) -> int:
        """Waits for the end of its main process; returns the exit code, negative for a signal."""
        ...

    def close(self) -> None:
        """Closes the descriptor."""
        ...


class Sandbox(Protocol):
    """A way to run commands. `probe` is asked once, before the first."""

    name: str

    def probe(self) -> str:
        """Returns the reason why it does not work here and what to do; empty if it works."""
        ...

    def start(self, command: str, rights: Rights, environment: Mapping[str, str]) -> Running:
        """Starts a shell command in the work tree, as the leader of a process group. Raises OSError."""
        ...


def shell(command: str) -> list[str]:
    """Returns the arguments that run a command in bash, its errors in its output."""
    return ["/bin/bash", "-c", 'exec /bin/bash -c "$1" 2>&1', "sh", command]


@dataclass
class Child:
    """A command as a process of ours."""

    process: subprocess.Popen[bytes]
    output: int = field(init=False)
    pid: int = field(init=False)

    def __post_init__(self) -> None:
        assert self.process.stdout is not None
        self.output, self.pid = self.process.stdout.fileno(), self.process.pid

    def wait(self) -> int:
        return self.process.wait()

    def close(self) -> None:
        assert self.process.stdout is not None
        self.process.stdout.close()


def start_child(arguments: Sequence[str], work: Path, environment: Mapping[str, str]) -> Child:
    """Starts a program in a process group of its own."""
    process = subprocess.Popen(
        arguments,
        cwd=work,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    return Child(process)


def end_group(pid: int) -> None:
    """Ends every process of a group, at once."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
