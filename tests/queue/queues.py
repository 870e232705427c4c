"""Small queues for the tests: a folder, tasks whose agent is a shell command, and a runner over them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from holdfast.queue.events import Log
from holdfast.queue.run import Options, Runner

LEDGER = "cat > /dev/null; echo {task} >> ledger"
"""A command that notes in the project's folder that its task was done."""


def shell(script: str) -> str:
    """Returns the `cli` of a task that runs a shell script."""
    return f"sh -c {json.dumps(script)}"


def task(name: str, script: str = "cat > /dev/null; echo done", *needs: str, **fields: Any) -> dict[str, Any]:
    """Returns a task as a file says it."""
    config = {"cli": shell(script), **fields.pop("config", {})}
    return {
        "id": name,
        "name": name.title(),
        "prompt": f"Do {name}.",
        "config": config,
        "depends_on": [*needs],
        **fields,
    }


def write(folder: Path, *tasks: dict[str, Any], **fields: Any) -> Log:
    """Writes a `tasks.json` and returns the log of its folder."""
    (folder / "tasks.json").write_text(json.dumps({"project": "p", **fields, "tasks": list(tasks)}))
    return Log(folder)


def read(folder: Path) -> dict[str, Any]:
    """Returns the tasks of the file by id."""
    return {one["id"]: one for one in json.loads((folder / "tasks.json").read_text())["tasks"]}


def run(log: Log, **options: Any) -> list[str]:
    """Runs a queue to its end and returns what was told."""
    told: list[str] = []
    Runner(log, Options(**options), told.append).run()
    return told


def statuses(log: Log) -> dict[str, str]:
    """Returns the status of each task."""
    return {name: record.status for name, record in log.refresh().records.items()}
