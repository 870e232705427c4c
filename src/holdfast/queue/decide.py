"""Decisions of a person about a queue: approve, retry, skip, a message to a task, an export of it all."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from holdfast.errors import BadInput, Conflict, Missing
from holdfast.queue import lease
from holdfast.queue.events import Event, Log, State
from holdfast.queue.executors import find_executor, live_line
from holdfast.queue.status import describe
from holdfast.storage.files import Lines

_FROM: dict[str, Collection[str]] = {
    "approve": ("awaiting_review",),
    "retry": ("failed", "awaiting_review", "skipped", "completed"),
    "skip": ("queued", "failed", "awaiting_review", "running"),
}


def decide(log: Log, kind: str, task: str) -> str:
    """Approves, retries or skips a task and returns its new status; a running one is skipped once it has ended.

    Raises Missing for an unknown task, Conflict for one to which that does not apply.
    """

    def check(state: State) -> Event:
        status = _record(state, task)
        if status not in _FROM[kind]:
            raise Conflict(f"{task} is {status}; {kind} is for tasks that are {', '.join(_FROM[kind])}")
        return {"kind": kind, "task": task}

    log.change(check)
    return log.state.records[task].status


def send(log: Log, task: str, text: str) -> str:
    """Gives a task a message, and returns when it will be read: by its agent now, or with its next prompt.

    Raises Missing for an unknown task, BadInput for no words, Conflict for a task that is finished.
    """
    if not text.strip():
        raise BadInput("a message needs words")
    told = "it stands in the prompt of the task's next attempt"

    def deliver(state: State) -> Event:
        nonlocal told
        status = _record(state, task)
        if status in ("completed", "skipped"):
            raise Conflict(f"{task} is {status} and reads nothing any more; `retry` opens it again")
        record = state.records[task]
        if status == "running":
            live = find_executor(state.tasks[task].config).live
            folder = lease.attempt_folder(log, task, record.attempt)
            with Lines(folder / ("inbox.jsonl" if live else "messages.md")) as lines:
                item = "- " + "\n  ".join(text.splitlines())
                lines.append(live_line(text).strip() if live else item, sync=True)
            told = (
                "its agent is told now" if live else f"it stands in {folder / 'messages.md'}, which its agent may read"
            )
        return {"kind": "message", "task": task, "text": text}

    log.change(deliver)
    return told


def export(log: Log, transcripts: bool = False) -> dict[str, Any]:
    """Returns the queue with every event, and with all that its agents printed, if that is wanted."""
    whole = describe(log) | {"plan": {**log.state.fields, "tasks": [one.plan() for one in log.state.tasks.values()]}}
    whole["events"] = [json.loads(line) for line in log.path.read_bytes().splitlines()] if log.state.count else []
    if transcripts:
        whole["attempts"] = {
            f"{name}/{number}": _read(lease.attempt_folder(log, name, number))
            for name, record in log.state.records.items()
            for number in range(1, record.attempt + 1)
        }
    return whole


def _read(folder: Path) -> dict[str, str]:
    names = [name for name in ("prompt.md", "out", "err") if (folder / name).exists()]
    return {name: (folder / name).read_bytes().decode("utf-8", "replace") for name in names}


def _record(state: State, task: str) -> str:
    if task not in state.records:
        known = ", ".join(list(state.records)[:10]) or "none"
        raise Missing(f"the queue has no task {task!r}; there are: {known}")
    return state.records[task].status
