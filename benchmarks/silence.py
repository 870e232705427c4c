"""Runs the commands on the bundled example, their output piped, and lists the steps that were silent for too long.

    python benchmarks/silence.py [COMMAND ...]

A step is the time between two outputs, or between the start or the end and the next one. Its length is the smaller of
the clock's seconds and the processor's seconds that the command used, so that other programs on the machine do not
count. A server is stopped as soon as it says its address; `fetch` fetches into an empty folder. Prints a line per
command, and then the list, which is to be empty. Linux only: it reads /proc.
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

LIMIT = 2.0  # seconds
EXAMPLE = Path(__file__).parents[1] / "examples" / "taskdeck"
TICKS = os.sysconf("SC_CLK_TCK")
SERVING = {"serve": b"metrics http", "proxy": b"counts on"}
"""Servers, and the words by which each says that it is up: then it is told to stop."""


class Step(NamedTuple):
    """The time before an output."""

    seconds: float
    before: str
    """The first characters of the output."""


def main() -> int:
    """Runs all commands, or those that are named. Returns 1 if one was silent for too long."""
    chosen, silent = set(sys.argv[1:]), []
    with tempfile.TemporaryDirectory() as folder:
        for name, command in commands(Path(folder)).items():
            if chosen and name not in chosen:
                continue
            steps = list(run_command(command, SERVING.get(name)))
            longest = max(steps)
            print(f"{name:<18} {sum(step.seconds for step in steps):7.1f} s, longest step {longest.seconds:.1f} s")
            silent += [(name, step) for step in steps if step.seconds > LIMIT]
    print(f"steps that are silent for more than {LIMIT:g} s: {len(silent)}")
    for name, step in silent:
        print(f"  {name}: {step.seconds:.1f} s before {step.before!r}")
    return bool(silent)


def commands(folder: Path) -> dict[str, Sequence[str]]:
    """Returns every command that a user waits for, in an order in which each finds its files in `folder`."""
    session, probes = folder / "session.json", folder / "probes.jsonl"
    session.write_bytes((EXAMPLE / "session.json").read_bytes())
    probes.write_text("".join((EXAMPLE / "probes.jsonl").read_text().splitlines(keepends=True)[:2]))
    context, rows = folder / "s.holdfast", folder / "rows.jsonl"
    lines = {
        "read": f"read {session}",
        "doctor": f"doctor {session}",
        "cost": f"cost {session} --prices claude-sonnet-4-5",
        "compact": f"compact {session} --window 1200 -o {context}",
        "show": f"show {context}",
        "show --html": f"show {context} --session {session} --html {folder / 's.html'}",
        "ask": f"ask {context} Which? --limit 4",
        "recompact": f"recompact {context} --ratio 12 -o {folder / 'r.holdfast'}",
        "join": f"join {context} {context} -o {folder / 'j.holdfast'}",
        "eval run": f"eval run --transcripts {session} --probes {probes} --latent informed --window 1200 --out {rows}",
        "eval score": f"eval score {rows}",
        "eval report": f"eval report {rows} -o {folder / 'report.html'}",
        "eval text": f"eval text {session} --text tiered --ratio 4 -o {folder / 'text.jsonl'}",
        "calibrate": f"calibrate {session} --limit 1 --window 512 -o {folder / 'shares.json'}",
        "compact --text": f"compact {session} --text tiered --ratio 4 -o {session}",
        "log": f"log {session}",
        "diff": f"diff {session}",
        "expand": f"expand {session} 17",
        "undo": f"undo {session}",
        "demo": f"demo --out {folder / 'out'} --limit 1 --steps 2",
        "serve": f"serve --port 0 --store {folder / 'sessions'}",
        "proxy": "proxy --listen 127.0.0.1:0 --upstream http://127.0.0.1:9",
        "fetch": "fetch",
    }
    own = {"fetch": ["env", f"HOLDFAST_HOME={folder / 'home'}"]}
    return {name: [*own.get(name, ()), sys.executable, "-m", "holdfast", *line.split()] for name, line in lines.items()}


def run_command(command: Sequence[str], serving: bytes | None = None) -> Iterator[Step]:
    """Yields each step of a command, which is told to stop once it has printed `serving`.

    Raises CalledProcessError if it fails.
    """
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        selector, clock, used, said = selectors.DefaultSelector(), time.monotonic(), 0.0, b""
        stopped = False
        for pipe in (process.stdout, process.stderr):
            selector.register(pipe, selectors.EVENT_READ)  # type: ignore[arg-type]
        while selector.get_map():
            for key, _ in selector.select():
                data = os.read(key.fd, 1 << 16)
                now, seconds = time.monotonic(), processor_seconds(process.pid)
                yield Step(min(now - clock, seconds - used), data[:60].decode(errors="replace") or "the end")
                clock, used, said = now, seconds, said + data
                if serving and serving in said and not stopped:
                    process.send_signal(signal.SIGTERM)
                    stopped = True
                if not data:
                    selector.unregister(key.fileobj)
        if process.wait() not in (0, -signal.SIGTERM if stopped else 0):
            raise subprocess.CalledProcessError(process.returncode, command, said)


def processor_seconds(process: int) -> float:
    """Returns the seconds that all threads of a process have used so far; those of one that has ended are not known."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return float("inf")
    return (int(fields[11]) + int(fields[12])) / TICKS


if __name__ == "__main__":
    sys.exit(main())
