"""The event log of a queue: the one truth, to which every writer appends under the log's lock.

A state is the fold of the events. The fold keeps the laws: a finished record stays as it is, an attempt ends once, a
crash counts as no failure. `tasks.json` and the status pages are drawn from the state.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from holdfast.errors import BadInput
from holdfast.queue.tasks import ENDED, FINISHED, Plan, Task
from holdfast.storage.files import DISK, Disk, Lines, create

Event = dict[str, Any]
FOLDER = Path(".holdfast") / "queue"
"""Folder of all that a queue holds beside `tasks.json` and the status, in the project."""
LOG = "events.jsonl"


@dataclass(frozen=True)
class Record:
    """The state of one task."""

    status: str = "queued"
    attempt: int = 0
    """Number of the newest attempt, from 1; crashes have numbers too."""
    failures: int = 0
    """Attempts that failed since the task was last opened."""
    crashes: int = 0
    host: str = ""
    started: float = 0.0
    ended: float = 0.0
    revision: str = ""
    """The edit of the plan by which the newest attempt was made."""
    wish: str = ""
    """`skip` or `stop` of a running task, until its attempt has ended."""
    result: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Message:
    """Words of a person to a task."""

    number: int
    task: str
    text: str
    attempt: int = 0
    """The attempt that was given it; 0 until then."""


@dataclass
class State:
    """A queue, as far as its events tell."""

    fields: dict[str, Any] = field(default_factory=lambda: {"project": ""})
    tasks: dict[str, Task] = field(default_factory=dict)
    records: dict[str, Record] = field(default_factory=dict)
    messages: list[Message] = field(default_factory=list)
    revision: str = ""
    """The last edit of the plan."""
    count: int = 0

    @property
    def plan(self) -> Plan:
        """The fields of the queue, without tasks."""
        return Plan.model_validate(self.fields)

    def waiting_messages(self, task: str) -> list[Message]:
        """Returns the messages to a task that no attempt was given yet."""
        return [one for one in self.messages if one.task == task and not one.attempt]


class Log:
    """The log in a project's folder, and the state that follows from it."""

    def __init__(self, project: Path, disk: Disk = DISK) -> None:
        self.project, self.folder = project, project / FOLDER
        self.path, self.state = self.folder / LOG, State()
        self._disk, self._lines, self._file = disk, list[bytes](), (0, 0)
        self._offset = 0
        self.refresh()

    def refresh(self) -> State:
        """Reads what other writers have appended. A line that is cut short is left for its writer."""
        try:
            with self.path.open("rb") as file:
                status = os.fstat(file.fileno())
                if self._lines and self._file != (status.st_dev, status.st_ino):
                    return self.state  # another file than ours: the next change brings both together
                self._file = status.st_dev, status.st_ino
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return self.state
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        for line in whole.splitlines():
            self._take_up(line)
        return self.state

    def change(self, decide: Callable[[State], Event | None]) -> Event | None:
        """Appends what `decide` makes of the newest state, while no other writer can; returns it, or None if nothing
        is to be done. The event is on the disk on return.

        Raises what `decide` raises, OSError with the log's name if the disk refuses: then nothing has changed.
        """
        self.make_folder()
        with Lines(self.path, disk=self._disk) as lines:
            lines.lock(wait=True)
            self._restore(lines)
            self.refresh()
            event = decide(self.state)
            if event is not None:
                event = {**event, "at": round(time.time(), 3), "by": f"{socket.gethostname()}:{os.getpid()}"}
                lines.append(json.dumps(event, ensure_ascii=True), sync=True)
                self.refresh()
        return event

    def state_at(self, revision: str) -> State | None:
        """Returns the state just after an edit of the plan; None if there is no such edit."""
        state = State()
        for number, line in enumerate(self._lines, 1):
            apply(state, _parse(line, self.path, number))
            if state.revision == revision:
                return state
        return None

    def make_folder(self) -> None:
        """Creates the folder where it is not, or no longer, there."""
        if not self.folder.is_dir():
            self.folder.mkdir(parents=True, exist_ok=True)
        ignore = self.folder / ".gitignore"
        if not ignore.exists():
            try:
                create(ignore, b"*\n")
            except FileExistsError:  # another writer was faster
                return

    def _restore(self, lines: Lines) -> None:
        """Writes again what this process has read, if somebody deleted the log meanwhile."""
        status = self.path.stat()
        if not self._lines or self._file == (status.st_dev, status.st_ino):
            return
        there = set(self.path.read_bytes().splitlines())
        known, self._lines, self._offset, self.state = self._lines, [], 0, State()
        for line in known:
            if line not in there:
                lines.append(line)

    def _take_up(self, line: bytes) -> None:
        self._lines.append(line)
        apply(self.state, _parse(line, self.path, len(self._lines)))


def apply(state: State, event: Event) -> None:
    """Changes `state` by one event. An event that breaks a law of the records changes nothing."""
    state.count += 1
    if event["kind"] == "plan":
        _apply_plan(state, event)
    elif event["kind"] == "message":
        state.messages.append(Message(state.count, event["task"], event["text"]))
    elif (record := state.records.get(event["task"])) is not None:
        step = _STEPS.get(event["kind"], _keep)  # a newer version may write kinds that this one does not know
        state.records[event["task"]] = step(record, event)
        if event["kind"] == "claim":
            given = set(event.get("messages", ()))
            attempt = int(event["attempt"])
            state.messages = [replace(m, attempt=attempt) if m.number in given else m for m in state.messages]


def _apply_plan(state: State, event: Event) -> None:
    state.revision = event["id"]
    state.fields = event["queue"]
    for raw in event["tasks"]:
        task = Task.model_validate(raw)
        if task.id not in state.records:
            state.records[task.id] = _first_record(task)
        state.tasks[task.id] = task
    for name in event.get("remove", ()):
        state.tasks.pop(name, None)
        state.records.pop(name, None)
    if order := event.get("order"):
        state.tasks = {name: state.tasks[name] for name in order if name in state.tasks} | state.tasks


def _first_record(task: Task) -> Record:
    """Returns the record of a task that is new here. What its file calls running, nobody runs: it is queued."""
    status = task.result.get("status", "queued")
    status = status if status in (*ENDED, "awaiting_review") else "queued"
    return Record(status, failures=int(status == "failed"), result=task.result)


def _claim(record: Record, event: Event) -> Record:
    if record.status != "queued" or event["attempt"] != record.attempt + 1:
        return record
    return replace(
        record,
        status="running",
        attempt=event["attempt"],
        host=event.get("host", ""),
        started=event["at"],
        ended=0.0,
        revision=event.get("revision", ""),
        wish="",
    )


def _end(record: Record, event: Event) -> Record:
    if record.status != "running" or event["attempt"] != record.attempt:
        return record
    failed = int(event["outcome"] == "failed")
    return replace(
        record,
        status=event["status"],
        failures=record.failures + failed,
        ended=event["at"],
        wish="",
        result=event["result"],
    )


def _requeue(record: Record, event: Event) -> Record:
    """Opens a task whose attempt ended without a result: that is no failure."""
    if record.status != "running" or event["attempt"] != record.attempt:
        return record
    crashed = int(event.get("crash", False))
    return replace(record, status=event.get("status", "queued"), crashes=record.crashes + crashed, wish="")


def _decide(record: Record, event: Event) -> Record:
    """Takes over what a person decided: approve, retry or skip."""
    kind = event["kind"]
    if record.status == "running":
        return replace(record, wish="skip") if kind == "skip" else record
    if kind == "approve":
        return replace(record, status="completed") if record.status == "awaiting_review" else record
    if kind == "skip":
        return record if record.status in FINISHED else replace(record, status="skipped")
    return replace(record, status="queued", failures=0, crashes=0) if record.status != "queued" else record


def _keep(record: Record, event: Event) -> Record:
    return record


_STEPS = {"claim": _claim, "end": _end, "requeue": _requeue, "approve": _decide, "retry": _decide, "skip": _decide}


def _parse(line: bytes, path: Path, number: int) -> Event:
    try:
        event = json.loads(line)
        if not isinstance(event, dict) or "kind" not in event:
            raise ValueError("no event")
    except ValueError as error:
        raise BadInput(
            f"{path}:{number}: damaged line of the event log ({error}); take that line out, or restore the file"
        ) from error
    return event
