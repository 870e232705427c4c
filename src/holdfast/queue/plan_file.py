"""`tasks.json` beside the log: a planner's edits are merged into the state, the state is written back.

The planner owns what tasks are, the queue owns what became of them. An edit is compared with the revision of the plan
that it was made from, so that neither side undoes the other's changes.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from holdfast.errors import BadInput, Conflict
from holdfast.queue import schedule
from holdfast.queue.events import Event, Log, Record, State
from holdfast.queue.tasks import FINISHED, Plan, Task, read_plan, write_plan
from holdfast.storage import files
from holdfast.storage.files import FileLock

TASKS = "tasks.json"
_TRIES = 20  # a planner that writes more often than that in a row is broken


@dataclass
class PlanFile:
    """The file of one project, and what is to be told about its newest edit."""

    log: Log
    notes: list[str] = field(default_factory=list)
    _seen: bytes = b""
    _mark: tuple[object, ...] = ()

    @property
    def path(self) -> Path:
        return self.log.project / TASKS

    def sync(self) -> State:
        """Merges what a planner wrote, writes the state back, and returns it.

        Raises BadInput for an edit that cannot be used; the file then stays as it is, and so does the state.
        """
        if self._mark and self._mark == self._signature():
            return self.log.state
        self.log.make_folder()
        with closing(FileLock(self.log.folder / "plan.lock")) as lock:
            lock.take(wait=True)  # two that put each other's file back would drop an edit between them
            self._rescue()
            for _ in range(_TRIES):
                data, wanted = _read(self.path), render(self.log.refresh())
                if data not in (None, wanted, self._seen):
                    self._merge(data)
                    wanted = render(self.log.refresh())
                if data == wanted or self._put(data, wanted):
                    self._seen, self._mark = wanted, self._signature()
                    return self.log.state
        raise Conflict(f"{self.path} changes faster than it can be merged; close what writes it, and run again")

    def _rescue(self) -> None:
        """Merges what a process that was killed while it wrote the file had in hand: it may be a planner's edit.

        Whoever writes the file holds the lock, so that nobody alive is writing these. Our own bytes change nothing.
        """
        for spare in self.log.project.glob(".holdfast-*.tmp"):
            try:
                self._merge(spare.read_bytes())
            except (BadInput, OSError):  # another file's, or cut short before it stood in any place
                continue
            spare.unlink(missing_ok=True)

    def _signature(self) -> tuple[object, ...]:
        try:
            status = self.path.stat()
        except OSError:  # there is none: it is written again
            return ()
        return status.st_ino, status.st_size, status.st_mtime_ns, self.log.refresh().count

    def _merge(self, data: bytes | None) -> None:
        plan = read_plan(data or b"", str(self.path))
        schedule.check(plan.tasks)
        base = self.log.state_at(plan.revision) if plan.revision else None
        notes: list[str] = []
        self.log.change(lambda state: merge(state, base, plan, notes))
        self.notes += notes

    def _put(self, data: bytes | None, wanted: bytes) -> bool:
        """Writes the file; returns False if somebody else wrote it meanwhile: then that edit is merged, too.

        The edit is not put back in between: a planner may by then have read what we wrote. Raises BadInput for an edit
        that cannot be used, which then stands in the file again.
        """
        refused: list[tuple[bytes, BadInput]] = []

        def take_over(old: bytes) -> bytes:
            if old not in (data, wanted):
                try:
                    self._merge(old)
                except BadInput as error:
                    refused.append((old, error))
            return b""

        try:
            if data is None:
                files.create(self.path, wanted)
            else:
                files.exchange(self.path, wanted, take_over)
        except (FileExistsError, FileNotFoundError):
            return False
        if refused:
            broken, error = refused.pop()
            files.exchange(self.path, broken, take_over)
            raise error
        return render(self.log.refresh()) == wanted


def render(state: State) -> bytes:
    """Returns the bytes of the `tasks.json` of a state."""
    tasks = (_with_result(task, state.records[name]) for name, task in state.tasks.items())
    return write_plan(state.fields, state.revision, tasks)


def merge(state: State, base: State | None, plan: Plan, notes: list[str]) -> Event | None:
    """Returns the event by which an edit changes the newest state, None if it changes nothing.

    `base` is the state that the edit was made from, None if its file does not say: then what it leaves out stays.
    Appends a line to `notes` for each change that is refused. Raises BadInput if the whole would not be a plan.
    """
    tasks = dict(state.tasks)
    for task in plan.tasks:
        if task.id not in state.tasks:
            if base is None or task.id not in base.tasks:  # else: dropped meanwhile, and only left over in this file
                tasks[task.id] = task
            continue
        merged = _merge_task(state.tasks[task.id], base.tasks.get(task.id) if base else None, task)
        if merged == state.tasks[task.id].plan():
            continue
        if state.records[task.id].status in FINISHED:
            notes.append(f"{task.id} is {state.records[task.id].status}: its edit is not taken; `retry` opens it again")
        else:
            tasks[task.id] = Task.model_validate(merged)
    removed = _removals(state, base, plan, notes)
    tasks = {name: task for name, task in tasks.items() if name not in removed}
    fields = _merge_fields(state.fields, base.fields if base else None, plan.fields())
    order = [task.id for task in plan.tasks if task.id in tasks]
    order += [name for name in tasks if name not in set(order)]
    schedule.check(tasks.values())
    new = [task.raw() for name, task in tasks.items() if task is not state.tasks.get(name)]
    if not new and not removed and fields == state.fields and (base is None or order == list(state.tasks)):
        return None
    return {
        "kind": "plan",
        "id": secrets.token_hex(4),
        "queue": fields,
        "tasks": new,
        "remove": sorted(removed),
        "order": order,
    }


def _removals(state: State, base: State | None, plan: Plan, notes: list[str]) -> set[str]:
    given = {task.id for task in plan.tasks}
    gone = [name for name in state.tasks if name not in given and (base is None or name in base.tasks)]
    open_ones = [name for name in gone if state.records[name].status in ("queued", "failed")]
    if base is not None:
        held = sorted(set(gone) - set(open_ones))
        notes += [f"{name} is {state.records[name].status} and stays, though it was taken out" for name in held]
        return set(open_ones)
    if gone and state.tasks:
        names = ", ".join(gone[:5])
        notes.append(f"tasks that the edited file leaves out stay ({names}): it has no revision; `skip` takes one out")
    return set()


def _merge_task(ours: Task, base: Task | None, theirs: Task) -> dict[str, Any]:
    return _merge_fields(ours.plan(), base.plan() if base else None, theirs.plan())


def _merge_fields(ours: Mapping[str, Any], base: Mapping[str, Any] | None, theirs: Mapping[str, Any]) -> dict[str, Any]:
    """Returns our fields with what they changed since `base`; objects are merged field by field."""
    merged = dict(ours)
    for name, value in theirs.items():
        before = None if base is None else base.get(name)
        if base is not None and name in base and value == before:
            continue
        if isinstance(value, Mapping) and isinstance(ours.get(name), Mapping):
            merged[name] = _merge_fields(ours[name], before if isinstance(before, Mapping) else None, value)
        else:
            merged[name] = value
    for name in base or ():
        if name not in theirs:
            merged.pop(name, None)
    return merged


def _with_result(task: Task, record: Record) -> dict[str, Any]:
    told = {**record.result, "status": record.status}
    if record.failures or "retry_count" in told:
        told["retry_count"] = retries_used(record)
    return {**task.plan(), "result": told}


def retries_used(record: Record) -> int:
    """Returns how many attempts were made because one had failed; crashes are none."""
    last_failed = record.status in ("failed", "skipped")
    return max(record.failures - 1, 0) if last_failed else record.failures


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}") from error
