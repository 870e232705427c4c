"""The scripted agent: what an agent that can do the tasks would do, step by step, so that contexts alone differ.

It reads what a task builds on, writes the reference solution and checks it. Before it writes, it looks whether the text
of each file that it needs is still in its context; one that is gone is read again, and that costs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from itertools import count

from holdfast.agent.models import Script
from holdfast.bench.tasks.catalog import Task, read_tasks
from holdfast.transcript.turn import Role, ToolCall, Turn

Step = Callable[[Sequence[Turn]], Turn]


def make_script(tasks: Sequence[Task]) -> Script:
    """Returns the answers of one session over some tasks: a fixed number of steps, whatever the context is."""
    number = count(1)
    steps = [*_begin(number)]
    for task in tasks:
        steps += _build(task, number)
    names = ", ".join(task.id for task in tasks)
    return [*steps, f"Done and checked: {names}."]


def prompt_of(tasks: Sequence[Task]) -> str:
    """Returns the task of a session: one instruction, or all of them in order."""
    head = "Build the next part of the program in this folder. README.md says what it is."
    return "\n\n".join([head, *(task.instruction.strip() for task in tasks)])


def _begin(number: count[int]) -> Iterator[Step]:
    yield _call(number, "What is there?", "run_command", command="ls -R . | grep -v node_modules | head -40")
    yield _call(number, "I read the notes first.", "read_file", path="README.md")
    yield _call(number, "And the package file.", "read_file", path="package.json")


def _build(task: Task, number: count[int]) -> Iterator[Step]:
    for needed in read_tasks(task.needs) if task.needs else ():
        for path, text in needed.solution.items():
            yield _look(number, path, text)
    if task.id == "1-database":
        yield _call(number, "Is better-sqlite3 there?", "run_command", command="node -e \"require('better-sqlite3')\"")
    for path, text in task.solution.items():
        yield _call(number, f"I write {path}.", "write_file", path=path, content=text)
        yield _call(number, "Does it parse?", "run_command", command=f"node --check {path} && echo parsed")
        yield _call(number, "I read it once more.", "run_command", command=f"cat -n {path}")
    check = "node --test test/" if task.id == "8-tests" else _try(task)
    yield _call(number, "I try it.", "run_command", command=check)


def _try(task: Task) -> str:
    names = " ".join(path for path in task.solution)
    return f"node -e \"console.log(Object.keys(require('./{names.split()[0]}')))\""


def _call(number: count[int], words: str, tool: str, **arguments: str) -> Step:
    call = ToolCall(f"call_{next(number):03d}", tool, json.dumps(arguments))
    return lambda turns: Turn(Role.ASSISTANT, words, calls=(call,))


def _look(number: count[int], path: str, text: str) -> Step:
    """Returns a step that reads a file unless its text stands in the context, where it only counts its lines."""
    again = _call(number, f"I need {path} again.", "read_file", path=path)
    known = _call(number, f"I know {path}; is it as I left it?", "run_command", command=f"wc -l {path}")
    lines = [line for line in text.splitlines() if line.strip()]

    def choose(turns: Sequence[Turn]) -> Turn:
        held = "\n".join([turn.text for turn in turns] + [c.arguments for turn in turns for c in turn.calls])
        there = sum(line in held or json.dumps(line)[1:-1] in held for line in lines)
        return known(turns) if there >= len(lines) * 0.9 else again(turns)

    return choose
