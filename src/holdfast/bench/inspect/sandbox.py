"""The agent's sandbox as an environment of inspect's: a folder of its own for each sample, commands confined to it.

Task(..., sandbox="holdfast")        # or ("holdfast", "bubblewrap"), or a spec with a `HoldfastSandboxConfig`
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from shlex import join, quote
from typing import Any

import anyio
from inspect_ai.util import (
    ExecResult,
    OutputLimitExceededError,
    SandboxEnvironment,
    SandboxEnvironmentLimits,
    SandboxUserUnsupportedError,
    sandboxenv,
)
from pydantic import BaseModel

from holdfast.agent.commands import FLOOD
from holdfast.agent.sandbox import open_sandbox
from holdfast.agent.workplace import Workplace, open_rights
from holdfast.errors import BadInput
from holdfast.storage import files

LONGEST_SECONDS = 3600
"""Seconds of a command for which inspect names no limit."""


class HoldfastSandboxConfig(BaseModel, frozen=True):
    """The settings of the environment."""

    sandbox: str = "auto"
    """`auto`, or a row of `agent/sandbox`; `none` runs commands as the user."""
    network: bool = False
    """Commands may reach any host."""
    loopback: bool = False
    """Commands may use servers on 127.0.0.1."""
    read: tuple[str, ...] = ()
    """Further files and folders that they may read."""


@sandboxenv(name="holdfast")
class HoldfastSandbox(SandboxEnvironment):  # type: ignore[misc]
    """A work tree, and the sandbox in which its commands run."""

    def __init__(self, config: HoldfastSandboxConfig) -> None:
        """Makes the folder. Raises Failed where no sandbox works."""
        super().__init__()
        sandbox = open_sandbox(config.sandbox)
        work = tempfile.mkdtemp(prefix="holdfast-inspect-")
        read = tuple(map(Path, config.read))
        rights = open_rights(work, read=read, network=config.network, loopback=config.loopback)
        self.place = Workplace(sandbox, rights, LONGEST_SECONDS)

    @classmethod
    async def task_init(cls, task_name: str, config: BaseModel | str | None) -> None:
        """Raises Failed where no sandbox works, before any sample begins."""
        open_sandbox(_read_config(config).sandbox)

    @classmethod
    async def sample_init(
        cls, task_name: str, config: BaseModel | str | None, metadata: dict[str, str]
    ) -> dict[str, SandboxEnvironment]:
        """Returns the environment of one sample."""
        return {"default": cls(_read_config(config))}

    @classmethod
    async def sample_cleanup(
        cls,
        task_name: str,
        config: BaseModel | str | None,
        environments: dict[str, SandboxEnvironment],
        interrupted: bool,
    ) -> None:
        """Deletes the folders of one sample."""
        for environment in environments.values():
            rights = environment.as_type(cls).place.rights
            for folder in (rights.work, rights.scratch):
                shutil.rmtree(folder, ignore_errors=True)

    @classmethod
    def config_deserialize(cls, config: dict[str, Any]) -> BaseModel:
        """Returns the settings that stand in a log."""
        return HoldfastSandboxConfig(**config)

    async def exec(  # noqa: PLR0913, PLR0917 (as inspect declares it)
        self,
        cmd: list[str],
        input: str | bytes | None = None,  # noqa: A002 (inspect's name)
        cwd: str | None = None,
        env: dict[str, str] | None = None,
        user: str | None = None,
        timeout: int | None = None,
        timeout_retry: bool = True,
        concurrency: bool = True,
    ) -> ExecResult[str]:
        """Runs a command. A command that ran out of time is not run again: it may have done its work in part.

        Raises TimeoutError, SandboxUserUnsupportedError, OutputLimitExceededError.
        """
        if user not in (None, str(os.geteuid()), _own_name()):
            raise SandboxUserUnsupportedError(f"commands run as the user who runs inspect, not as {user!r}")
        run = partial(self._run, cmd, input, cwd, env or {}, timeout)
        return await anyio.to_thread.run_sync(run)

    def _run(
        self, cmd: list[str], given: str | bytes | None, cwd: str | None, env: dict[str, str], timeout: int | None
    ) -> ExecResult[str]:
        rights = self.place.rights
        box = Path(tempfile.mkdtemp(dir=rights.scratch))
        source, out = box / "in", box / "out"
        files.replace(source, given.encode() if isinstance(given, str) else given or b"")
        sets = " ".join(quote(f"{name}={value}") for name, value in env.items())
        lines = [f"ulimit -f {FLOOD >> 10}", f"cd {quote(str(Path(rights.work, cwd or '.')))} || exit 1"]
        lines += [f"export {sets}"] if sets else []
        lines.append(f"exec {join(cmd)} < {quote(str(source))} > {quote(str(out))}")
        place = replace(self.place, seconds=timeout or LONGEST_SECONDS)
        try:
            ran = place.run("\n".join(lines))
            if ran.ended and ran.seconds >= place.seconds:
                raise TimeoutError(ran.ended)
            printed = _read_plain(out, SandboxEnvironmentLimits.MAX_EXEC_OUTPUT_SIZE)
        finally:
            shutil.rmtree(box, ignore_errors=True)
        errors = ran.output + ran.tail + ran.ended
        return ExecResult(ran.returncode == 0, ran.returncode, printed.decode("utf-8", "replace"), errors)

    async def write_file(self, file: str, contents: str | bytes) -> None:
        """Writes a file below the work tree. Raises PermissionError for another, IsADirectoryError for a folder."""
        path = self._path(file)
        if path.is_dir():
            raise IsADirectoryError(f"{file} is a folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        files.replace(path, contents.encode() if isinstance(contents, str) else contents)

    async def read_file(self, file: str, text: bool = True) -> str | bytes:
        """Reads a file of the work tree. Raises PermissionError for another, FileNotFoundError where there is none."""
        path = self._path(file)
        if path.is_dir():
            raise IsADirectoryError(f"{file} is a folder")
        read = _read_plain(path, SandboxEnvironmentLimits.MAX_READ_FILE_SIZE)
        return read.decode("utf-8") if text else read

    def _path(self, name: str) -> Path:
        try:
            return self.place.path(name)
        except BadInput as error:
            raise PermissionError(str(error)) from None


def _read_config(config: BaseModel | str | None) -> HoldfastSandboxConfig:
    if isinstance(config, HoldfastSandboxConfig):
        return config
    return HoldfastSandboxConfig(sandbox=config) if isinstance(config, str) else HoldfastSandboxConfig()


def _own_name() -> str:
    import pwd

    return pwd.getpwuid(os.geteuid()).pw_name


def _read_plain(path: Path, most: int) -> bytes:
    """Reads a file that a command may have replaced: no link is followed, and nothing is waited for."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode):
            raise PermissionError(f"{path.name} is no plain file")
        if about.st_size > most:
            raise OutputLimitExceededError(f"{most >> 20} MiB", None)
        return file.read(most)
