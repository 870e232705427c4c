"""A program in a process of its own, whose output is in files, so that no pipe fills up and no reader loses a line."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from waiting import PATIENCE, until

SECONDS = 120
"""After which a child that does nothing fails its test; two busy cores load the libraries of a server in 30."""


@dataclass(frozen=True)
class Child:
    """A process that runs until it is ended."""

    process: subprocess.Popen[bytes]
    folder: Path

    def output(self, stream: str = "stderr") -> str:
        """Returns all that it wrote to `stdout` or `stderr` up to now."""
        return (self.folder / stream).read_text()

    def address(self) -> str:
        """Returns the address that it serves on, once it answers there; fails with its output if it ends before."""
        url = ""

        def answers() -> bool:
            nonlocal url
            assert self.process.poll() is None, self.output()
            if not url and (written := re.search(r"on (http://\S+:\d+).*\n", self.output())):
                url = written[1]
            return bool(url) and is_alive(url)

        until(answers, SECONDS)
        return url

    def end(self, how: int) -> int:
        """Sends it the signal `how` and returns its exit code."""
        self.process.send_signal(how)
        return self.process.wait(SECONDS)


def is_alive(url: str) -> bool:
    """Returns whether the server at `url` says that it is healthy."""
    try:
        return httpx.get(f"{url}/health", trust_env=False, timeout=PATIENCE).status_code == 200
    except httpx.TransportError:
        return False


@contextmanager
def child(*arguments: str, **variables: str) -> Iterator[Child]:
    """Runs this Python with `arguments` for as long as the block lasts, and kills it where it is still there then."""
    variables["PYTHONPATH"] = os.pathsep.join(sys.path)  # it can import what its test can
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / name for name in ("stdout", "stderr")]
        with paths[0].open("wb") as out, paths[1].open("wb") as err:
            process = subprocess.Popen([sys.executable, *arguments], stdout=out, stderr=err, env=os.environ | variables)
        try:
            yield Child(process, Path(folder))
        finally:
            process.kill()
            process.wait()
