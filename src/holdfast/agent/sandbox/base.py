"""The contract of a sandbox: what a command may do, and a process whose output is read while it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
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
    """Any host."""
    loopback: bool = False
    """Servers and clients on 127.0.0.1; where the sandbox has no network of its own, those of this machine."""
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

    def excess(self) -> str:
        """Returns the limit that it has passed, empty if none. Asked from time to time, and at the end."""
        ...

    def close(self) -> None:
        """Closes the descriptor."""
        ...


class Sandbox(Protocol):
    """A way to run commands. `probe` is asked once, before the first."""

    name: str
    confines: bool
    """False only where commands may do all that the user may."""

    def probe(self) -> str:
        """Returns the reason why it does not work here and what to do; empty if it works."""
        ...

    def start(self, command: str, rights: Rights, environment: Mapping[str, str]) -> Running:
        """Starts a shell command in the work tree, as the leader of a process group. Raises OSError."""
        ...


def shell(command: str, first: str = "") -> list[str]:
    """Returns the arguments that run a command in bash, its errors in its output, behind what is run `first`."""
    return ["/bin/bash", "-c", first + 'exec /bin/bash -c "$1" 2>&1', "sh", command]
