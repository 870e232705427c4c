"""The runner: starts what is ready, takes up what has ended, until nothing is left or a person is needed.

Any number of runners may work on one queue. A runner that is killed leaves its tasks running; the next one takes up
their results.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from holdfast.errors import BadInput, Conflict, HoldfastError
from holdfast.queue import lease, schedule, worktrees
from holdfast.queue.context import ContextSizes, Models, build_prompt, priors
from holdfast.queue.events import Event, Log, Record, State
from holdfast.queue.executors import Job, Outcome, check_programs, find_executor, live_line
from holdfast.queue.lease import Claim
from holdfast.queue.outcome import describe_end, find_changes, make_result, next_status, read_outcome
from holdfast.queue.plan_file import PlanFile
from holdfast.queue.status import write_pages
from holdfast.queue.supervise import Exit, Order
from holdfast.queue.tasks import Format, Task
from holdfast.storage.files import FileLock
from holdfast.storage.files import replace as write_file

TICK = 0.05
_PAGES = 3.0  # seconds between two pages while nothing but sizes changes
_STOPPING = 15.0


@dataclass(frozen=True)
class Options:
    """Settings of a run over a queue."""

    jobs: int = 1
    """Tasks at once, over all runners."""
    format: Format | None = None
    """In place of the plan's context_format."""
    worktrees: bool = False
    """Every task in a work tree of its own, also where it names none."""
    models: Models = field(default_factory=Models)


@dataclass
class Runner:
    """One run over a queue."""

    log: Log
    options: Options = Options()
    report: Callable[[str], object] = lambda _: None
    """Called with a line for each thing that happens."""
    _children: list[subprocess.Popen[bytes]] = field(default_factory=list)
    _own: set[tuple[str, int]] = field(default_factory=set)
    _drawn: tuple[int, float] = (-1, 0.0)
    _problem: str = ""
    _told: str = ""

    def run(self) -> State:
        """Returns the state once nothing runs and nothing can start. Raises BadInput if a program is missing, or if
        there is no plan; stops the tasks that it started and requeues them if it is interrupted.
        """
        if os.name == "nt":
            raise BadInput("a queue is run on Linux and macOS: Windows hands no lock on to a child; use WSL")
        self.file = PlanFile(self.log)
        state = self.file.sync()
        check_programs(task for task in state.tasks.values() if state.records[task.id].status == "queued")
        try:
            while self._step():
                time.sleep(TICK)
        except KeyboardInterrupt:
            self._stop()
            raise
        finally:
            self._sync()
            self.draw(now=True)
        for child in self._children:  # each has said how its task ended, and has only to end itself
            child.wait()
        return self.log.state

    def _step(self) -> bool:
        """Does what can be done now; returns False if nothing is left to wait for."""
        state = self._sync()
        for name, record in running(state):
            self._take_up(name, record)
        while (taken := self._claim()) is not None:
            self._start(taken)
        self._children = [one for one in self._children if one.poll() is None]
        self.draw()
        if running(self.log.state):
            return True
        state = self._sync()  # the last task may have edited the plan after we had looked, or be half read by us
        return self._choose(state) is not None or self._problem != self._told

    def _sync(self) -> State:
        """Merges the planner's edits; an edit that cannot be used is told once, and the plan stays as it was."""
        try:
            self.file.sync()
            self._problem = self._told = ""
        except (BadInput, Conflict) as error:  # told at the second look: the file may be half written just now
            if str(error) == self._problem and self._told != self._problem:
                self._told = self._problem
                self.report(f"the edit of tasks.json is not taken: {error}")
            self._problem = str(error)
        while self.file.notes:
            self.report(self.file.notes.pop(0))
        return self.log.refresh()

    def _claim(self) -> Claim | None:
        if self._choose(self.log.state) is None:
            return None
        return lease.claim(self.log, self._choose)

    def _choose(self, state: State) -> str | None:
        """Returns the task to start next, if there is room."""
        busy = running(state)
        if len(busy) >= self.options.jobs:
            return None
        used = {state.tasks[name].config.worktree for name, _ in busy} - {None}
        names = (name for name in schedule.ready(state) if state.tasks[name].config.worktree not in used)
        name = next(names, None)
        if name is not None:
            check_programs([state.tasks[name]])
        return name

    def _start(self, taken: Claim) -> None:
        task = self.log.state.tasks[taken.task]
        try:
            order = self._prepare(task, taken)
        except HoldfastError as error:
            taken.lock.close()
            self._end(task, self.log.state.records[task.id], Outcome(False, error=str(error)), {}, None)
            return
        self._children.append(lease.start(taken, order))
        self._own.add((taken.task, taken.attempt))
        known = find_executor(task.config).name != "command"
        program = f"{task.config.cli} {task.config.model}" if known else task.config.cli[:60]
        self.report(f"started {task.id}: {task.name} ({program}, attempt {taken.attempt})")

    def _prepare(self, task: Task, taken: Claim) -> Order:
        """Writes the prompt and returns what is to be run. Raises BadInput or Failed without a work tree."""
        executor = find_executor(task.config)
        folder = self.log.project
        name = task.config.worktree or (task.id if self.options.worktrees else "")
        if name:
            folder = worktrees.add(self.log.project, self.log.folder / "worktrees", name)
        messages = taken.folder / ("inbox.jsonl" if executor.live else "messages.md")
        text, measured = self._prompt(task, taken, None if executor.live or executor.name == "command" else messages)
        prompt = taken.folder / "prompt.md"
        write_file(prompt, text.encode("utf-8", "replace"))
        write_file(taken.folder / "context.json", _dump(measured))
        told = [one.text for one in self.log.state.messages if one.task == task.id]
        write_file(taken.folder / lease.GIVEN, json.dumps({"texts": told}).encode())
        fed = prompt
        if executor.live:
            fed = taken.folder / "prompt.jsonl"
            write_file(fed, live_line(text))
        config = task.config
        return Order(
            executor.command(task, Job(prompt, folder, messages)),
            str(folder),
            str(fed),
            executor.name,
            config.max_seconds,
            config.stall_seconds,
            config.max_tokens,
            name,
            str(messages) if executor.live else "",
            {"HOLDFAST_QUEUE_TASK": task.id, "HOLDFAST_QUEUE_MESSAGES": str(messages)},
        )

    def _prompt(self, task: Task, taken: Claim, messages: Path | None) -> tuple[str, ContextSizes]:
        state = self.log.state
        plan, record = state.plan, state.records[task.id]
        if self.options.format:
            plan = plan.model_copy(update={"context_format": self.options.format})
        earlier = priors(state, task, self._transcript)
        return build_prompt(task, plan, earlier, self.options.models, list(extra_parts(state, task, record, messages)))

    def _transcript(self, name: str, record: Record) -> str:
        path = lease.attempt_folder(self.log, name, record.attempt) / "out"
        return str(path) if record.attempt and path.exists() else ""

    def _take_up(self, name: str, record: Record) -> None:
        """Records the end of an attempt, if it has ended; requeues it if its holder is dead."""
        folder = lease.attempt_folder(self.log, name, record.attempt)
        end = lease.read_exit(folder)
        if end is None:
            if record.wish:
                lease.stop(folder)
            if lease.is_alive(folder, record.host, record.started):
                if lease.end_orphan(folder):
                    self.report(f"{name}: its supervisor is gone; the program was ended")
                return
            end = lease.read_exit(folder)  # it may have ended between the two looks
        if end is None or end.reason == "stopped":
            self._requeue(name, record, crash=end is None)
            return
        folder.mkdir(parents=True, exist_ok=True)
        with closing(FileLock(folder / "finish")) as lock:
            if lock.take():  # else another runner is taking it up
                task = self.log.state.tasks[name]
                self._end(task, record, read_outcome(task, folder, end), _measures(folder), end)

    def _requeue(self, name: str, record: Record, *, crash: bool) -> None:
        def decide(state: State) -> Event | None:
            newest = state.records[name]
            if newest.status != "running" or newest.attempt != record.attempt:
                return None
            event: Event = {"kind": "requeue", "task": name, "attempt": record.attempt, "crash": crash}
            if newest.wish == "skip":
                return {**event, "status": "skipped"}
            if crash and newest.crashes + 1 >= lease.CRASHES:
                told = {**newest.result, "error": f"{newest.crashes + 1} attempts were killed; see what ends them"}
                return {**event, "status": "awaiting_review", "result": told}
            return event

        if self.log.change(decide):
            self.report(f"{name}: {'its attempt was killed' if crash else 'stopped'}; queued again, no retry used")

    def _end(self, task: Task, record: Record, outcome: Outcome, measures: dict[str, Any], end: Exit | None) -> None:
        """Merges the work tree and appends the end of an attempt."""
        merged = worktrees.MergeResult()
        file = lease.attempt_folder(self.log, task.id, record.attempt) / "order.json"
        order = lease.read_json(file) or {}
        place, began = Path(order.get("folder", self.log.project)), file.stat().st_mtime if order else record.started
        changed = [] if end is None else find_changes(place, began)
        if outcome.ok and order.get("worktree"):
            told = f"{task.id}: {task.name}"
            merged = worktrees.merge(self.log.project, self.log.folder / "worktrees", order["worktree"], told)

        def decide(state: State) -> Event | None:
            newest = state.records[task.id]
            if newest.status != "running" or newest.attempt != record.attempt:
                return None
            status = next_status(task, newest, outcome, merged)
            result = make_result(newest, outcome, merged, changed) | measures | {"status": status}
            if end is not None:
                result["seconds"] = end.seconds
            kind: Event = {"kind": "end", "task": task.id, "attempt": record.attempt, "status": status}
            return {**kind, "outcome": "ok" if outcome.ok else "failed", "result": result}

        if event := self.log.change(decide):
            self.report(describe_end(task, event))

    def _stop(self) -> None:
        """Ends the tasks that this runner started, and requeues them."""
        until = time.monotonic() + _STOPPING
        while time.monotonic() < until:
            own = [(name, one) for name, one in running(self.log.refresh()) if (name, one.attempt) in self._own]
            for name, record in own:
                lease.stop(lease.attempt_folder(self.log, name, record.attempt))
                self._take_up(name, record)
            if not own:
                return
            time.sleep(TICK)

    def draw(self, *, now: bool = False) -> None:
        """Writes status.md and status.html where they are out of date."""
        state, time_ = self.log.state, time.monotonic()
        old = state.count != self._drawn[0] or (running(state) and time_ - self._drawn[1] > _PAGES)
        if old or now:
            self._drawn = state.count, time_
            write_pages(self.log, self._problem)


def running(state: State) -> list[tuple[str, Record]]:
    """Returns the tasks that are claimed."""
    return [(name, record) for name, record in state.records.items() if record.status == "running"]


def extra_parts(state: State, task: Task, record: Record, messages: Path | None) -> Iterator[str]:
    """Yields what stands behind a task's own words: the last failure, an interruption, the person's messages."""
    if record.failures:
        yield f"PREVIOUS ATTEMPT FAILED:\n{record.result.get('error', '')}\n\nPlease fix the issue and try again."
    elif record.attempt > 1:
        yield "An earlier attempt was interrupted. Its work may be here already: look before you begin."
    if told := [one.text for one in state.messages if one.task == task.id]:
        yield "MESSAGES FROM THE PERSON:\n" + "\n".join(f"- {text}" for text in told)
    if messages is not None:
        yield f"The person may write to you in {messages} while you work: look there now and then, and before you end."


def _measures(folder: Path) -> dict[str, Any]:
    return lease.read_json(folder / "context.json") or {}


def _dump(measured: ContextSizes) -> bytes:
    return json.dumps(measured.result()).encode()


def exit_code(state: State) -> int:
    """Returns 0 if everything is completed or skipped, 3 if a person is waited for, 1 if a task failed or is stuck."""
    statuses = {record.status for record in state.records.values()}
    if "awaiting_review" in statuses:
        return 3
    return 1 if statuses - {"completed", "skipped"} else 0


def require_plan(log: Log) -> None:
    """Raises BadInput if a folder holds no queue."""
    if not (log.project / "tasks.json").exists() and not log.state.count:
        raise BadInput(f"{log.project} has no tasks.json; run `holdfast queue init {log.project}`, or start a planner")
