"""bubblewrap: namespaces of the kernel. Needs the program `bwrap`, and a machine that allows namespaces."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from itertools import chain
from pathlib import Path

from holdfast.agent.sandbox.base import Rights, shell
from holdfast.agent.sandbox.process import Child, start_child

_SPARE = 8  # processes above the limit, so that what looks on from outside sees it passed, and says so
_UNSHARE = ("--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try")


class Bubblewrap:
    """A file system of its own, in which only what may be read is there, and a network with nothing but itself."""

    name = "bubblewrap"
    confines = True

    def probe(self) -> str:
        program = shutil.which("bwrap")
        if program is None:
            return "the program bwrap is not installed; install the package bubblewrap"
        test = [program, *_UNSHARE, "--unshare-net", "--ro-bind", "/", "/", "--proc", "/proc", "/bin/true"]
        try:
            done = subprocess.run(test, capture_output=True, timeout=20, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"bwrap could not be run: {error}"
        if done.returncode == 0:
            return ""
        words = " ".join(done.stderr.decode(errors="replace").split())[:200]
        return f"bwrap failed ({words}); allow user namespaces to it, e.g. in AppArmor's profile or the container's"

    def start(self, command: str, rights: Rights, environment: Mapping[str, str]) -> Child:
        arguments = ["bwrap", *_UNSHARE, "--die-with-parent", "--new-session", "--proc", "/proc", "--dev", "/dev"]
        if not rights.network:
            arguments.append("--unshare-net")
        for path in rights.readable():
            arguments += self._show(Path(path))
        work, scratch = str(rights.work), str(rights.scratch)
        arguments += ["--bind", scratch, "/tmp"]
        arguments += chain.from_iterable(("--bind", str(path), str(path)) for path in (scratch, work, *rights.write))
        # the kernel holds a loop of forks that is quicker than that look; not for root, whom it never counts
        inside = shell(command, f"ulimit -u {rights.processes + _SPARE}; ")
        return start_child([*arguments, "--remount-ro", "/", "--chdir", work, "--", *inside], rights, environment)

    def _show(self, path: Path) -> list[str]:
        """Returns the options that show a path as it is, a link as a link."""
        if path.is_symlink() and path.parent == Path("/"):
            return ["--symlink", str(path.readlink()), str(path)]
        return ["--ro-bind", str(path), str(path)]
