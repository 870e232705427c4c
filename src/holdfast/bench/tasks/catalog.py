"""The tasks: a folder each, with `instruction.md`, hidden `checks.test.js`, and a reference `solution/`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from holdfast.errors import BadInput

FOLDER = Path(__file__).parent
NEEDS: dict[str, tuple[str, ...]] = {
    "1-database": (),
    "2-markdown": (),
    "3-users": ("1-database",),
    "4-tasks": ("1-database",),
    "5-report": ("1-database", "2-markdown"),
    "6-validation": ("3-users", "4-tasks", "5-report"),
    "7-server": ("3-users", "4-tasks", "5-report", "6-validation"),
    "8-tests": ("6-validation", "7-server"),
}
"""The tasks in order, each with those that it builds on."""


@dataclass(frozen=True)
class Task:
    """One task of the program."""

    id: str

    @property
    def folder(self) -> Path:
        return FOLDER / self.id

    @property
    def needs(self) -> tuple[str, ...]:
        return NEEDS[self.id]

    @cached_property
    def instruction(self) -> str:
        return (self.folder / "instruction.md").read_text("utf-8")

    @property
    def checks(self) -> Path:
        return self.folder / "checks.test.js"

    @cached_property
    def solution(self) -> dict[str, str]:
        """The files of the reference solution by path."""
        root = self.folder / "solution"
        return {str(path.relative_to(root)): path.read_text("utf-8") for path in sorted(root.rglob("*.js"))}


def missing_needs(tasks: Sequence[Task]) -> tuple[Task, ...]:
    """Returns the tasks that these build on, at any distance, and that are not among them."""
    wanted, waiting = {task.id for task in tasks}, [name for task in tasks for name in task.needs]
    found: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name not in wanted | found:
            found.add(name)
            waiting += NEEDS[name]
    return tuple(Task(name) for name in NEEDS if name in found)


def read_tasks(names: tuple[str, ...] = ()) -> tuple[Task, ...]:
    """Returns the tasks that are named, by id or number, in order; all without a name. Raises BadInput for others."""
    wanted = [next((task for task in NEEDS if name in (task, task.partition("-")[0])), None) for name in names]
    if None in wanted:
        raise BadInput(f"no task is called {names[wanted.index(None)]!r}; there are: {', '.join(NEEDS)}")
    return tuple(Task(name) for name in NEEDS if not names or name in wanted)
