"""sandlock: Landlock and seccomp. Needs Linux 6.7 or newer and no privilege, so it works in containers."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from holdfast.agent.sandbox.base import Rights, shell

DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/proc")
MEMORY, LIMITED = 2, "it was ended by the sandbox, as one is that takes more memory than it may"
"""The library's reason for a process that it ended, and the words for it."""


class _Process:
    """A command of sandlock's."""

    def __init__(self, process: Any) -> None:
        self._process, self._killed = process, False
        self.pid, self.output = int(process.pid), int(process.stdout.fileno())

    def wait(self) -> int:
        result = self._process.wait()
        self._killed = int(result.reason) == MEMORY
        return int(result.exit_code) if result.signal < 0 else -int(result.signal)

    def excess(self) -> str:
        return LIMITED if self._killed else ""

    def close(self) -> None:
        self._process.stdout.close()


class Sandlock:
    """Files by Landlock, network and numbers of processes by seccomp, in the kernel of this machine."""

    name = "sandlock"
    confines = True

    def probe(self) -> str:
        try:
            import sandlock
        except ImportError:
            return "is not installed; pip install 'holdfast[sandbox]' (Linux only)"
        if (has := sandlock.landlock_abi_version()) < (needs := sandlock.min_landlock_abi()):
            return f"this kernel has Landlock {has}, it needs {needs} (Linux 6.7); update the kernel, or let it load"
        folder = Path(tempfile.mkdtemp(prefix="holdfast-probe-")).resolve()
        try:
            running = self.start("exit 7", Rights(folder, folder), {"PATH": "/usr/bin:/bin"})
            code = running.wait()
            running.close()
        except (OSError, RuntimeError) as error:
            return f"a command could not be started: {error}; the container may forbid seccomp"
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return "" if code == 7 else f"a command that exits with 7 gave {code}; the container may forbid seccomp"

    def start(self, command: str, rights: Rights, environment: Mapping[str, str]) -> _Process:
        from sandlock import Sandbox, StdioMode

        writable = [str(path) for path in (rights.work, rights.scratch, *rights.write)]
        sandbox = Sandbox(
            fs_readable=[*rights.readable(), *DEVICES],
            fs_writable=[*writable, "/dev/null"],
            net_allow=["*:*"] if rights.network else ["127.0.0.1:*"] if rights.loopback else [],
            net_allow_bind=["*"] if rights.network or rights.loopback else [],
            max_memory=rights.memory,
            max_processes=rights.processes,
            cwd=str(rights.work),
            clean_env=True,
            env=dict(environment),
        )
        try:
            return _Process(sandbox.popen(shell(command), StdioMode.NULL, StdioMode.PIPED, StdioMode.NULL))
        except RuntimeError as error:
            raise OSError(str(error)) from error
