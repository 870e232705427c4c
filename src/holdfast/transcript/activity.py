"""What deterministic code knows of a session, so that no model is ever asked: commands and how they ended, files read
and written, calls that nothing answers. Every value names its raw turn, counted from 0.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from holdfast.transcript.cuts import find_callers
from holdfast.transcript.outcomes import RunCounts, count_tests, find_error_line, read_exit_code
from holdfast.transcript.tools import Action, answers_text_call, list_calls, parse_action
from holdfast.transcript.turn import Role, Turn

_APPLIED = re.compile(r"^Applied edit to (.+?)\s*$", re.MULTILINE)
_OPEN_FILE = re.compile(r"\((?:Open file|open_file): ([^\n)]+)\)")


@dataclass(frozen=True)
class Command:
    """One command line that the agent ran."""

    turn: int
    text: str
    exit_code: int | None = None
    """None where nothing tells it."""
    result_turn: int | None = None
    """None where nothing answers it."""
    error_line: str = ""
    """The first line of the result that tells an error; empty where the exit code is 0."""
    tests: RunCounts | None = None
    failed: bool = False
    """It is known to have failed: its exit code is not 0, the result is marked as an error, or a test failed."""


@dataclass(frozen=True)
class FileAccess:
    """One file that one call read or wrote; calls that are known to have failed are left out."""

    turn: int
    path: str
    """As the call names it, joined to the folder that a shell command says it runs in."""
    result_turn: int | None = None
    part: str = ""
    """Of a read: what was asked for, where it was not the whole file."""
    alone: bool = True
    """Of a read: the result holds nothing but files' content."""


@dataclass(frozen=True)
class Activity:
    """Everything, in the order of the session."""

    commands: tuple[Command, ...] = ()
    reads: tuple[FileAccess, ...] = ()
    writes: tuple[FileAccess, ...] = ()
    open_calls: tuple[int, ...] = ()
    """Turns with a call that nothing answers."""


@dataclass(frozen=True)
class Step:
    """One call: the turn that makes it, what it is called, what it does, and the turn that answers it."""

    turn: int
    name: str
    action: Action
    result: int | None


def find_steps(turns: Sequence[Turn]) -> Iterator[Step]:
    """Every call of a session, in order."""
    answers = {(caller, turns[at].call_id): at for at, caller in reversed(find_callers(turns).items())}
    for at, turn in enumerate(turns):
        told = at + 1 if at + 1 < len(turns) and answers_text_call(turns[at + 1]) else None
        for call in list_calls(turn):
            yield Step(at, call.name, parse_action(call), answers.get((at, call.id)) if turn.calls else told)


def find_activity(turns: Sequence[Turn]) -> Activity:
    """What the turns' calls and results say."""
    commands: list[Command] = []
    reads: list[FileAccess] = []
    writes: list[FileAccess] = []
    unanswered: dict[int, None] = {}
    for step in find_steps(turns):
        result = None if step.result is None else turns[step.result]
        does = step.action
        if result is None:
            unanswered[step.turn] = None
        ran = [_command(step, text, result) for text in does.commands]
        commands += ran
        failed = result is not None and result.is_error and not ran
        if not failed and not (does.alone and any(command.failed for command in ran)):
            reads += [FileAccess(step.turn, path, step.result, part, does.alone) for path, part in does.reads]
        if not failed:
            writes += [FileAccess(step.turn, path, step.result) for path in _written(does, result)]
    writes = sorted([*writes, *_applied(turns)], key=lambda access: access.turn)
    return Activity(tuple(commands), tuple(reads), tuple(writes), tuple(unanswered))


def _applied(turns: Sequence[Turn]) -> Iterator[FileAccess]:
    """Edits that a harness without tool calls made of the model's text, and reported."""
    for at, turn in enumerate(turns):
        if turn.role is Role.TOOL and not turn.call_id:
            yield from (FileAccess(at, path, at) for path in _APPLIED.findall(turn.text))


def _command(step: Step, text: str, result: Turn | None) -> Command:
    if result is None:
        return Command(step.turn, text)
    code, tests = read_exit_code(result), count_tests(result.text)
    failed = bool(code) or result.is_error or bool(tests and tests.failed)
    error = find_error_line(result.text) if code != 0 else ""
    return Command(step.turn, text, code, step.result, error, tests, failed)


def _written(does: Action, result: Turn | None) -> tuple[str, ...]:
    """An editor that works on the open file names it in the result."""
    if not does.pathless_write or result is None:
        return does.writes
    found = _OPEN_FILE.findall(result.text)
    return tuple(found[-1:])
