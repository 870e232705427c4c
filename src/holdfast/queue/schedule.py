"""Order of the tasks: which may start now, which path is the longest, where a plan waits for nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter

from holdfast.errors import BadInput
from holdfast.queue.events import Record, State
from holdfast.queue.tasks import ENDED, FINISHED, Dependency, Task

_SERIAL = 3
"""Tasks in a row from which on a plan may be needlessly serial."""


@dataclass(frozen=True)
class CriticalPath:
    """The chain of tasks that takes longest."""

    tasks: tuple[str, ...]
    seconds: float | None
    """Seconds of those that have run; None where none has."""


def check(tasks: Iterable[Task]) -> None:
    """Raises BadInput, naming the tasks, for ids that stand twice, unknown dependencies and cycles."""
    given = list(tasks)
    names = {task.id for task in given}
    if len(names) < len(given):
        seen: set[str] = set()
        twice = sorted({task.id for task in given if task.id in seen or seen.add(task.id)})  # type: ignore[func-returns-value]
        raise BadInput(f"each task needs an id of its own; these stand twice: {', '.join(twice)}")
    unknown = [f"{task.id} -> {one.id}" for task in given for one in task.depends_on if one.id not in names]
    if unknown:
        raise BadInput(f"a task can only depend on tasks of the queue; unknown: {', '.join(unknown[:5])}")
    order({task.id: task for task in given})


def order(tasks: Mapping[str, Task]) -> list[str]:
    """Returns the ids so that every task stands behind those that it waits for. Raises BadInput for a cycle."""
    graph = {name: [one.id for one in task.depends_on if one.id in tasks] for name, task in tasks.items()}
    try:
        return list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        raise BadInput(f"tasks must not wait for each other in a circle: {' -> '.join(error.args[1])}") from error


def blockers(state: State) -> list[str]:
    """Returns the tasks for which the whole queue waits until a person has decided."""
    return [
        name
        for name, record in state.records.items()
        if record.status == "awaiting_review" or (record.status == "failed" and state.tasks[name].on_failure == "pause")
    ]


def ready(state: State) -> list[str]:
    """Returns the tasks that may start now, those with the longest way behind them first; none while a person is
    waited for. Takes one look at every dependency.
    """
    if blockers(state):
        return []
    free = [
        name
        for name, task in state.tasks.items()
        if state.records[name].status == "queued" and all(_is_met(one, state.records) for one in task.depends_on)
    ]
    if len(free) > 1:
        depth = _depths(state.tasks)
        free.sort(key=lambda name: -depth[name])  # stable: else in the order of the plan
    return free


def find_blocked(state: State) -> dict[str, list[str]]:
    """Returns the queued tasks that can never start as things stand, each with the tasks that it waits for."""
    stuck: dict[str, list[str]] = {}
    for name in order(state.tasks):
        if state.records[name].status != "queued":
            continue
        dead = [
            one.id
            for one in state.tasks[name].depends_on
            if one.id in stuck or (state.records[one.id].status in ENDED and not _is_met(one, state.records))
        ]
        if dead:
            stuck[name] = dead
    return stuck


def critical_path(state: State) -> CriticalPath:
    """Returns the longest chain: by the seconds that tasks took, and a second each for those that have not run."""
    best: dict[str, tuple[float, str]] = {}
    for name in order(state.tasks):
        record = state.records[name]
        own = max(record.ended - record.started, 0.0) or 1.0
        before = [(best[one.id][0], one.id) for one in state.tasks[name].depends_on]
        longest = max(before, default=(0.0, ""))
        best[name] = longest[0] + own, longest[1]
    chain: list[str] = []
    name = max(best, key=lambda one: best[one][0], default="")
    while name:
        chain.append(name)
        name = best[name][1]
    spent = [state.records[one].ended - state.records[one].started for one in chain if state.records[one].ended]
    return CriticalPath(tuple(reversed(chain)), sum(spent) if spent else None)


def longest_chain(tasks: Mapping[str, Task]) -> list[str]:
    """Returns the longest chain of a plan, counted in tasks."""
    records = dict.fromkeys(tasks, Record())
    return list(critical_path(State(tasks=dict(tasks), records=records)).tasks)


def find_needless_waits(tasks: Mapping[str, Task]) -> list[tuple[str, str]]:
    """Returns the pairs (task, the one it waits for) without a visible reason, where a plan is almost one chain.

    A reason is a file that both name, or a prompt that names the other task or one of its files.
    """
    depth = _depths(tasks)
    if len(tasks) < _SERIAL or max(depth.values()) < 0.7 * len(tasks):
        return []
    return [
        (name, one.id)
        for name, task in tasks.items()
        for one in task.depends_on
        if one.id in tasks and not _shares(task, tasks[one.id])
    ]


def _is_met(one: Dependency, records: Mapping[str, Record]) -> bool:
    status = records[one.id].status
    allowed = {"needs": FINISHED, "completed": ("completed",), "after": ENDED}
    return status in allowed[one.kind]


def _depths(tasks: Mapping[str, Task]) -> dict[str, int]:
    """Returns for each task how many tasks the longest chain has that begins with it."""
    depth = dict.fromkeys(tasks, 1)
    for name in reversed(order(tasks)):
        for one in tasks[name].depends_on:
            if one.id in depth:
                depth[one.id] = max(depth[one.id], depth[name] + 1)
    return depth


def _shares(task: Task, other: Task) -> bool:
    words = task.prompt + "\n" + task.context
    named = any(file and file in words for file in (other.id, other.name, *other.relevant_files))
    return named or bool(set(task.relevant_files) & set(other.relevant_files))
