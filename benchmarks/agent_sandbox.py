"""Times a command in each sandbox that works here: python benchmarks/agent_sandbox.py [RUNS]."""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

from holdfast.agent.commands import run_command
from holdfast.agent.sandbox import SANDBOXES, open_sandbox
from holdfast.agent.sandbox.base import Rights
from holdfast.errors import Failed


def main(runs: int) -> None:
    """Prints milliseconds of a probe, and the median and the slowest of `runs` commands that do nothing."""
    for name in SANDBOXES:
        began = time.perf_counter()
        try:
            sandbox = open_sandbox(name)
        except Failed as error:
            print(f"{name}: {error}")
            continue
        probed = 1e3 * (time.perf_counter() - began)
        with tempfile.TemporaryDirectory() as work, tempfile.TemporaryDirectory() as scratch:
            rights = Rights(Path(work).resolve(), Path(scratch).resolve())
            took = []
            for _ in range(runs):
                began = time.perf_counter()
                assert run_command("true", sandbox, rights, {"PATH": "/usr/bin:/bin"}, 20).returncode == 0
                took.append(1e3 * (time.perf_counter() - began))
        print(f"{name}: probe {probed:.0f} ms, command {statistics.median(took):.0f} ms, slowest {max(took):.0f} ms")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
