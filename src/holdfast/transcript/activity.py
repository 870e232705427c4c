"""The activity of a session, read from its calls and results without a model: commands and their outcome, files read
and written, calls without an answer. Every value names its raw turn, counted from 0.
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
    """None if nothing tells it."""
    result_turn: int | None = None
    """None if nothing answers it."""
    error_line: str = ""
    """The first line of the result that tells an error; empty if the exit code is 0."""
    tests: RunCounts | None = None
    failed: bool = False
    """True if the exit code is not 0, the result is marked as an error, or a test failed."""


@dataclass(frozen=True)
class FileAccess:
    """A file that a call read or wrote. Calls that failed are left out."""

    turn: int
    path: str
    """The path in the call, joined to the folder that a shell command says it runs in."""
    result_turn: int | None = None
    part: str = ""
    """Of a read: the part that was asked for; empty for the whole file."""
    alone: bool = True
    """Of a read: True if the result holds nothing but files' content."""


@dataclass(frozen=True)
class Step:
    """A call: the turn that makes it, its name, its action, and the turn that answers it."""

    turn: int
    name: str
    action: Action
    result: int | None


@dataclass(frozen=True)
class Activity:
    """The calls of a session, and the commands, reads and writes in them, in the order of the session."""

    commands: tuple[Command, ...] = ()
    reads: tuple[FileAccess, ...] = ()
    writes: tuple[FileAccess, ...] = ()
    steps: tuple[Step, ...] = ()
    open_calls: tuple[int, ...] = ()
    """Turns with a call without an answer."""


def find_steps(turns: Sequence[Turn]) -> Iterator[Step]:
    """Yields every call of a session, in order."""
    answers = {(caller, turns[at].call_id): at for at, caller in reversed(find_callers(turns).items())}
    for at, turn in enumerate(turns):
        next_turn = at + 1 if at + 1 < len(turns) and answers_text_call(turns[at + 1]) else None
        for call in list_calls(turn):
            yield Step(at, call.name, parse_action(call), answers.get((at, call.id)) if turn.calls else next_turn)


def find_activity(turns: Sequence[Turn]) -> Activity:
    """Returns the activity of these turns."""
    steps = tuple(find_steps(turns))
    commands: list[Command] = []
    reads: list[FileAccess] = []
    writes: list[FileAccess] = []
    unanswered: dict[int, None] = {}
    for step in steps:
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
            writes += [FileAccess(step.turn, path, step.result) for path in _find_writes(does, result)]
    writes = sorted([*writes, *_find_reported_edits(turns)], key=lambda access: access.turn)
    return Activity(tuple(commands), tuple(reads), tuple(writes), steps, tuple(unanswered))


def _find_reported_edits(turns: Sequence[Turn]) -> Iterator[FileAccess]:
    """Yields the edits that a harness without tool calls made of the model's text, and reported."""
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


def _find_writes(does: Action, result: Turn | None) -> tuple[str, ...]:
    """Returns the files that an action writes. An editor that works on the open file names it in the result."""
    if not does.pathless_write or result is None:
        return does.writes
    found = _OPEN_FILE.findall(result.text)
    return tuple(found[-1:])
