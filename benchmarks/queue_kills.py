"""Kills a queue's runners at random instants, two at work and a planner editing: what is lost, what is done twice?

    python benchmarks/queue_kills.py --kills 200 --supervisors 40

Every task writes to a ledger when it begins and when its work is done. A killed runner leaves its tasks running, so its
victims' work must be in the ledger exactly once. A killed supervisor takes its program with it: that task must run
again, without a retry. `--next` instead measures a queue of so many tasks.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass
from multiprocessing import parent_process
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from holdfast.queue import lease, schedule
from holdfast.queue.events import Log
from holdfast.queue.plan_file import PlanFile
from holdfast.queue.run import Options, Runner, running

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["holdfast.queue.run"])
WORK = "cat > /dev/null; echo begin {0} >> ledger; sleep 0.3; echo done {0} >> ledger"


@dataclass
class Table:
    """Counts of a run: what became of the tasks."""

    kills: int = 0
    supervisors: int = 0
    """Supervisors that were killed with their programs."""
    tasks: int = 0
    lost: int = 0
    """Tasks that were written into tasks.json and are not completed."""
    done_twice: int = 0
    """Tasks whose work was done more than once though no supervisor of theirs was killed."""
    ended_twice: int = 0
    """Tasks with more than one end in the log."""
    retries_used: int = 0
    crashes: int = 0
    seconds: float = 0.0


def work(folder: str) -> None:
    """Runs a queue again and again, until this process is killed, or the one that started it is gone."""
    while (parent := parent_process()) and parent.is_alive():
        Runner(Log(Path(folder)), Options(jobs=4)).run()
        time.sleep(0.02)


def torment(folder: Path, kills: int, supervisors: int, seed: int, pause: float) -> Table:
    """Kills that often, adding tasks meanwhile, then lets the rest be done, and counts."""
    dice, table, began = random.Random(seed), Table(), time.monotonic()
    add_tasks(folder, 0, 8)
    log, victims = Log(folder), set[str]()
    runners = [launch(folder) for _ in range(2)]
    count = 8
    while table.kills < kills or table.supervisors < supervisors:
        time.sleep(dice.uniform(0, pause))
        if table.supervisors < supervisors and dice.random() < supervisors / (kills + supervisors):
            table.supervisors += kill_supervisor(log, dice, victims)
        elif table.kills < kills:
            at = dice.randrange(2)
            end(runners[at])
            table.kills += 1
            runners[at] = launch(folder)
        if count - len(find_completed(log)) < 10:
            add_tasks(folder, count, 4)
            count += 4
    names = {f"t{number}" for number in range(count)}
    until = time.monotonic() + 600
    while time.monotonic() < until and names - find_completed(log):
        time.sleep(0.1)
    for one in runners:
        end(one)
    table.seconds = round(time.monotonic() - began, 1)
    return judge(log, names, victims, table)


def judge(log: Log, names: set[str], victims: set[str], table: Table) -> Table:
    """Counts what the log and the ledger say of the tasks."""
    state = log.refresh()
    done = Counter(line.split()[1] for line in (log.project / "ledger").read_text().splitlines() if line[:4] == "done")
    events = [json.loads(line) for line in log.path.read_bytes().splitlines()]
    ends = Counter(event["task"] for event in events if event["kind"] == "end")
    table.tasks = len(names)
    table.lost = len(names - find_completed(log)) + len([name for name in names if not done[name]])
    table.done_twice = sum(done[name] > 1 for name in names - victims)
    table.ended_twice = sum(number > 1 for number in ends.values())
    table.retries_used = sum(record.failures for record in state.records.values())
    table.crashes = sum(record.crashes for record in state.records.values())
    return table


def add_tasks(folder: Path, first: int, number: int) -> None:
    """Edits tasks.json as a planner does: reads it, adds tasks behind what is there, puts the new file in its place."""
    path = folder / "tasks.json"
    plan: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"project": "kills", "tasks": []}
    for at in range(first, first + number):
        name, needs = f"t{at}", [f"t{at - 3}"] if at % 4 == 3 else []
        cli = f"sh -c {json.dumps(WORK.format(name))}"
        plan["tasks"].append(
            {"id": name, "name": name, "prompt": f"Do {name}", "config": {"cli": cli}, "depends_on": needs}
        )
    new = folder / "tasks.new"
    new.write_text(json.dumps(plan))
    new.replace(path)


def launch(folder: Path) -> BaseProcess:
    """Starts a runner."""
    process = FORKS.Process(target=work, args=(str(folder),), daemon=True)
    process.start()
    return process


def end(process: BaseProcess) -> None:
    """Kills a runner."""
    process.kill()
    process.join()


def kill_supervisor(log: Log, dice: random.Random, victims: set[str]) -> int:
    """Kills the supervisor of a running task with its program, if one can be found; returns how many."""
    busy = running(log.refresh())
    dice.shuffle(busy)
    for name, record in busy:
        folder = lease.attempt_folder(log, name, record.attempt)
        beat = lease.read_json(folder / "beat.json")
        if beat is not None and lease.read_exit(folder) is None:
            with suppress(ProcessLookupError):  # it has ended just now
                os.kill(beat["pid"], signal.SIGKILL)
                victims.add(name)
                os.killpg(beat["group"], signal.SIGKILL)
                return 1
    return 0


def find_completed(log: Log) -> set[str]:
    """Returns the tasks that the log calls completed."""
    return {name for name, record in log.refresh().records.items() if record.status == "completed"}


def measure_next(folder: Path, number: int) -> dict[str, Any]:
    """Returns milliseconds of finding the next task among `number`: in an open queue, and with opening its log."""
    tasks = [
        {"id": f"t{at}", "name": f"t{at}", "prompt": "Do it. " * 50, "depends_on": [f"t{at // 2}"] if at else []}
        for at in range(number)
    ]
    (folder / "tasks.json").write_text(json.dumps({"project": "many", "tasks": tasks}))
    PlanFile(Log(folder)).sync()
    times: dict[str, Any] = {"tasks": number}
    log = Log(folder)
    times["next_ms"] = median_ms(lambda: schedule.ready(log.state))
    times["open_and_next_ms"] = median_ms(lambda: schedule.ready(Log(folder).state))
    times["open_merge_and_next_ms"] = median_ms(lambda: schedule.ready(PlanFile(Log(folder)).sync()))
    return times


def median_ms(call: Callable[[], object], tries: int = 20) -> dict[str, float]:
    """Returns the median milliseconds of a call, on the clock and of the processor alone."""
    spans: dict[str, list[float]] = {"wall": [], "processor": []}
    for _ in range(tries):
        began, used = time.perf_counter(), time.process_time()
        call()
        spans["wall"].append(time.perf_counter() - began)
        spans["processor"].append(time.process_time() - used)
    return {name: round(1000 * sorted(values)[tries // 2], 1) for name, values in spans.items()}


def main() -> None:
    """Prints one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--supervisors", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pause", type=float, default=0.8, help="Seconds between two kills, at most.")
    parser.add_argument("--next", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="Of the queue; it stays.")
    options = parser.parse_args()
    with nullcontext(options.folder) if options.folder else tempfile.TemporaryDirectory() as folder:
        if options.next:
            print(json.dumps(measure_next(Path(folder), options.next)))
        else:
            print(
                json.dumps(
                    asdict(torment(Path(folder), options.kills, options.supervisors, options.seed, options.pause))
                )
            )


if __name__ == "__main__":
    main()
