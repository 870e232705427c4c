"""A writer appends to a session, as an agent does, while compact and undo run on it in a loop: how many lines are lost?

    PYTHONPATH=tests/text python benchmarks/soak_append.py [--minutes 30] [--rate 50] [--out FILE]

Each round is a fresh session of the next format (chat, Codex, pi, Claude Code), opened for each line or, where
the format compacts by appending, held open. A line is lost if it is neither in the file nor in its log; at the end of a
round every change is taken back, and the file must hold what the writer wrote, each line once. Prints JSON.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

from file_log.wire_files import WIRES, Wire

from holdfast.errors import BadInput, Failed
from holdfast.text.file_log import compact_file, read_lineage, read_log, undo_file
from holdfast.text.rewrite import TextPlan

ROUND = 20.0
"""Seconds of a round: the log holds every version of the session whole."""
PLANS = tuple(
    TextPlan(method, ratio=ratio, keep_recent=1, gate=False)
    for method, ratio in (("mask_observations", 2), ("truncate", 2), ("drop_observations", 4))
)
HELD = ("codex", "pi")
"""Formats that are compacted by appending, so that an agent may keep the file open."""


def write(path: Path, wire: Wire, rate: float, hold: bool) -> None:
    """Appends lines until stdin ends, then prints their number."""
    kept = path.open("ab", buffering=0) if hold else None
    print("ready", flush=True)
    done, begun = 0, time.monotonic()
    while not done or not ended.is_set():
        done += 1
        line = wire.line(done, path)
        if kept:
            kept.write(line)
        else:
            with path.open("ab", buffering=0) as file:
                file.write(line)
        ended.wait(max(0.0, begun + done / rate - time.monotonic()))
    print(done)


def one_round(wire: Wire, hold: bool, seconds: float, rate: float, tally: Counter[str]) -> None:
    """Compacts and undoes while a writer appends, then counts."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "session.jsonl"
        wire.start(path)
        start = path.read_bytes()
        command = [sys.executable, __file__, "--write", str(path), "--wire", wire.name, "--rate", str(rate)]
        writer = subprocess.Popen(
            [*command, *["--hold"][: int(hold)]], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        writer.stdout.readline()  # it is ready
        end = time.monotonic() + seconds
        for plan in itertools.cycle(PLANS):
            _try(tally, "compact", partial(compact_file, path, plan))
            if not hold:
                _try(tally, "undo", lambda: undo_file(path))
            if time.monotonic() > end:
                break
        written = int(writer.communicate()[0])
        count(path, start, wire, written, tally)


def _try(tally: Counter[str], what: str, change: Callable[[], object]) -> None:
    try:
        change()
        tally[what] += 1
    except Failed:  # somebody was writing at that moment: refused, and to be run again
        tally[f"{what} refused"] += 1
    except BadInput:  # nothing to undo, after a compaction that was refused
        tally[f"{what} nothing"] += 1


def count(path: Path, start: bytes, wire: Wire, written: int, tally: Counter[str]) -> None:
    """Counts the lines that were written and those that are lost, in the file and its log, and after every undo."""
    marks = [f'meanwhile {number}"'.encode() for number in range(1, written + 1)]
    held = path.read_bytes()
    logged = b"".join(event.before + event.after for event in read_log(path))
    tally["lines"] += written
    tally["lost"] += sum(mark not in held and mark not in logged for mark in marks)
    while read_lineage(path).steps:
        undo_file(path)
    whole = path.read_bytes()
    tally["lost after undo"] += sum(mark not in whole for mark in marks)
    tally["said twice after undo"] += sum(whole.count(mark) > 1 for mark in marks)
    tally["rounds"] += 1
    tally["rounds byte for byte"] += whole.startswith(start) and whole.count(b"\n") == start.count(b"\n") + written


def soak(seconds: float, rate: float) -> dict[str, object]:
    """Returns the counts of all rounds together, and of each kind of writer."""
    tallies: dict[str, Counter[str]] = {}
    begun = time.monotonic()
    ways = [(wire, False) for wire in WIRES] + [(wire, True) for wire in WIRES if wire.name in HELD]
    part = min(ROUND, seconds / len(ways))
    for wire, hold in itertools.cycle(ways):
        name = f"{wire.name}, {'held open' if hold else 'opened for each line'}"
        one_round(wire, hold, part, rate, tallies.setdefault(name, Counter()))
        if time.monotonic() - begun > seconds and len(tallies) == len(ways):
            break
    whole: Counter[str] = sum(tallies.values(), Counter())
    counts = {**whole, "lost": whole["lost"], "lost after undo": whole["lost after undo"]}
    return {"seconds": round(time.monotonic() - begun, 1), "rate": rate, **counts, "by writer": tallies}


def set_at_end_of_input(ended: threading.Event) -> None:
    """Waits for the end of the standard input."""
    sys.stdin.read()
    ended.set()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--rate", type=float, default=50.0, help="lines per second")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--wire", help=argparse.SUPPRESS)
    parser.add_argument("--hold", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.write:
        ended = threading.Event()
        threading.Thread(target=partial(set_at_end_of_input, ended), daemon=True).start()
        write(given.write, next(wire for wire in WIRES if wire.name == given.wire), given.rate, given.hold)
    else:
        found = json.dumps(soak(given.minutes * 60, given.rate), indent=1)
        print(found)
        if given.out:
            given.out.write_text(found + "\n")
