"""The place where an agent works: a folder, what its commands may do there, and reading and writing its files."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from holdfast import config
from holdfast.agent.commands import CommandResult, run_command
from holdfast.agent.sandbox.base import Rights, Sandbox
from holdfast.errors import BadInput
from holdfast.storage import files

LONGEST = 10 << 20
"""Bytes of a file that is read or written at once."""
QUIET = {"PAGER": "cat", "GIT_PAGER": "cat", "TERM": "dumb", "PIP_PROGRESS_BAR": "off", "TQDM_DISABLE": "1", "CI": "1"}
"""Variables that keep programs from pages, bars and questions."""


@dataclass(frozen=True)
class Workplace:
    """A work tree with its sandbox."""

    sandbox: Sandbox
    rights: Rights
    seconds: float = 120.0
    """Seconds of one command."""
    variables: tuple[str, ...] = ()
    """Further variables of the environment that commands get."""
    edits: dict[str, list[str]] = field(default_factory=dict)
    """Earlier texts of files that a tool has edited, the newest last."""

    def run(self, command: str) -> CommandResult:
        """Runs a shell command in the work tree."""
        folders = {"HOME": str(self.rights.scratch), "TMPDIR": str(self.rights.scratch)}
        environment = {**config.command_environment(self.variables), **QUIET, **folders}
        if self.sandbox.confines:
            environment["PATH"] = self._search_path(environment.get("PATH", ""))
        return run_command(command, self.sandbox, self.rights, environment, self.seconds)

    def _search_path(self, path: str) -> str:
        """Returns the folders of a search path that commands may read: a program of a home folder is not found, in
        place of found and refused.
        """
        granted = [*map(Path, self.rights.readable()), self.rights.work, *self.rights.write]
        readable = [each.resolve() for each in granted]
        parts = (part for part in path.split(os.pathsep) if part)
        kept = [part for part in parts if any(Path(part).resolve().is_relative_to(each) for each in readable)]
        return os.pathsep.join(kept) or "/usr/local/bin:/usr/bin:/bin"

    def path(self, name: str) -> Path:
        """Returns the path of a file of the work tree. Raises BadInput for one outside, also through a link."""
        work = self.rights.work
        path = Path(work, name).resolve()
        if not path.is_relative_to(work):
            raise BadInput(f"{name} is outside of the work tree {work}; give a path below it")
        return path

    def read(self, name: str) -> str:
        """Returns the text of a file. Raises BadInput where there is none that can be read."""
        path = self.path(name)
        if not path.is_file():
            what = "is a folder" if path.is_dir() else "does not exist"
            raise BadInput(f"{name} {what}; give the path of a file")
        if path.stat().st_size > LONGEST:
            raise BadInput(f"{name} has {path.stat().st_size:,} bytes; look at parts of it with a command")
        return path.read_bytes().decode("utf-8", "replace")

    def write(self, name: str, text: str) -> None:
        """Writes a file whole, with the folders that it needs. Raises BadInput, OSError."""
        path = self.path(name)
        if path.is_dir():
            raise BadInput(f"{name} is a folder; give the path of a file")
        path.parent.mkdir(parents=True, exist_ok=True)
        files.replace(path, text.encode("utf-8", "replace"))


def open_rights(
    directory: Path | str, *, read: tuple[Path, ...] = (), write: tuple[Path, ...] = (), **network: bool
) -> Rights:
    """Returns the rights in a folder, with a new folder for temporary files. Raises BadInput if there is none.

    `network` are the fields of `Rights` that say what may be reached.
    """
    work = Path(directory).expanduser().resolve()
    if not work.is_dir():
        raise BadInput(f"{directory} is no folder; create it first, or give the folder in which the agent is to work")
    scratch = Path(tempfile.mkdtemp(prefix="holdfast-agent-")).resolve()
    return Rights(work, scratch, (*_git_folder(work), *read), write, **network)


def _git_folder(work: Path) -> tuple[Path, ...]:
    """Returns the repository of a linked work tree, which git must read; it lies outside."""
    link = work / ".git"
    if not link.is_file():
        return ()
    words = link.read_text("utf-8", "replace").strip()
    folder = Path(work, words.removeprefix("gitdir:").strip()).resolve()
    common = folder / "commondir"
    return ((folder / common.read_text().strip()).resolve(),) if common.is_file() else ()
