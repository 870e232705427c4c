"""The eight tasks of `holdfast bench run` as a queue, by the scripted agent; is it the same program after kills?

    python benchmarks/queue_tasks.py --kills 8

Our own agent does each task in a process of its own. At random instants everything is killed, runner, supervisors and
agents, and the queue is run again. The program must be, byte for byte, that of a queue that nobody killed, it must pass
the hidden checks, and no kill may use up a retry.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from holdfast.agent.sandbox.none import NoSandbox
from holdfast.agent.tools import SENTINEL
from holdfast.bench.tasks.catalog import Task, missing_needs, read_tasks
from holdfast.bench.tasks.script import prompt_of
from holdfast.bench.tasks.workspace import accept, reset
from holdfast.queue import lease
from holdfast.queue.events import Log
from holdfast.queue.run import running

LEDGER = "ledger"
"""The file beside the program into which every step writes its name before it works."""


@dataclass
class Result:
    """The state of a queue at its end."""

    tasks: int
    kills: int = 0
    completed: int = 0
    same_program: bool = False
    checks_passed: int = 0
    checks: int = 0
    crashes: int = 0
    retries_used: int = 0
    steps_twice: int = 0
    """Steps that were begun more than once."""
    seconds: float = 0.0


def write_queue(folder: Path, tasks: Sequence[Task]) -> Log:
    """Writes the program's start, a script for each task and tasks.json; returns the log of the queue."""
    work = folder / "work"
    reset(work, missing_needs(tasks))
    ids = {task.id for task in tasks}
    plan = []
    for task in tasks:
        script = folder / f"{task.id}.json"
        script.write_text(json.dumps(write_script(task, folder / LEDGER)))
        config = {"cli": "holdfast", "model": f"scripted:{script}", "permission_mode": "dangerously_skip"}
        needs = [name for name in task.needs if name in ids]
        plan.append(
            {"id": task.id, "name": task.id, "prompt": prompt_of((task,)), "config": config, "depends_on": needs}
        )
    (work / "tasks.json").write_text(json.dumps({"project": "bench", "tasks": plan}))
    return Log(work)


def write_script(task: Task, ledger: Path) -> list[dict[str, Any]]:
    """Returns the answers of the scripted model. A file is written twice: a kill in a step leaves it half done, and the
    agent does not do an interrupted step again.
    """
    commands = ["ls -R . | grep -v node_modules | head -40"]
    for path, text in task.solution.items():
        new, old = shlex.quote(f"{path}.new"), shlex.quote(path)
        write = f"mkdir -p {shlex.quote(str(Path(path).parent))}\ncat > {new} <<'END_OF_FILE'\n{text}END_OF_FILE\n"
        commands += [f"{write}mv {new} {old}"] * 2 + [f"node --check {old} && echo parsed"]
    commands = [f"echo '{task.id} {at}' >> {shlex.quote(str(ledger))}\n{one}" for at, one in enumerate(commands)]
    commands.append(f"echo {SENTINEL}; echo {task.id} is built")
    return [{"text": "Next.", "calls": [{"name": "bash", "arguments": {"command": one}}]} for one in commands]


def launch(log: Log, jobs: int = 2) -> subprocess.Popen[bytes]:
    """Starts a runner of the queue."""
    command = [sys.executable, "-m", "holdfast", "queue", "run", str(log.project), "--jobs", str(jobs), "--json"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def kill_all(log: Log, runner: subprocess.Popen[bytes]) -> None:
    """Kills the runner, and every supervisor with its agent."""
    runner.kill()
    runner.wait()
    for name, record in running(log.refresh()):
        folder = lease.attempt_folder(log, name, record.attempt)
        beat = lease.read_json(folder / "beat.json")
        if beat is None or lease.read_exit(folder) is not None:
            continue
        with suppress(ProcessLookupError):  # it has ended just now
            os.kill(beat["pid"], signal.SIGKILL)
            os.killpg(beat["group"], signal.SIGKILL)


def read_program(work: Path) -> dict[str, str]:
    """Returns the text of every file of the program by its path, without what the queue keeps."""
    paths = (path for path in work.rglob("*") if path.is_file() and ".holdfast" not in path.parts)
    own = {"tasks.json", "status.md", "status.html"}
    return {str(path.relative_to(work)): path.read_text() for path in paths if path.name not in own}


def judge(log: Log, tasks: Sequence[Task], reference: Path, result: Result) -> Result:
    """Fills in what the log, the ledger and the hidden checks say."""
    state = log.refresh()
    steps = (log.project.parent / LEDGER).read_text().splitlines()
    found = [accept(task, log.project, NoSandbox()) for task in tasks]
    result.completed = sum(record.status == "completed" for record in state.records.values())
    result.same_program = read_program(log.project) == read_program(reference)
    result.checks_passed, result.checks = sum(one.passed for one in found), sum(one.total for one in found)
    result.crashes = sum(record.crashes for record in state.records.values())
    result.retries_used = sum(record.failures for record in state.records.values())
    result.steps_twice = len(steps) - len(set(steps))
    return result


def torment(folder: Path, tasks: Sequence[Task], kills: int, seed: int) -> Result:
    """Runs a queue that nobody kills and one that is killed that often, and compares."""
    dice, result = random.Random(seed), Result(len(tasks))
    (folder / "whole").mkdir()
    (folder / "cut").mkdir()
    whole = write_queue(folder / "whole", tasks)
    began = time.monotonic()
    launch(whole).wait()
    quiet = time.monotonic() - began
    log, began = write_queue(folder / "cut", tasks), time.monotonic()
    for _ in range(kills):
        runner = launch(log)
        with suppress(subprocess.TimeoutExpired):
            runner.wait(dice.uniform(0.1, 0.5) * quiet)
            break  # all is done
        kill_all(log, runner)
        result.kills += 1
    launch(log).wait()
    result.seconds = round(time.monotonic() - began, 1)
    return judge(log, tasks, whole.project, result)


def main() -> None:
    """Prints one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tasks", nargs="*", help="By number; all eight if none is named.")
    parser.add_argument("--kills", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(asdict(torment(Path(folder), read_tasks(tuple(options.tasks)), options.kills, options.seed))))


if __name__ == "__main__":
    main()
