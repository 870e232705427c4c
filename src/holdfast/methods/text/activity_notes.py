"""Notes that code writes without a model: files read and written, commands with their results, unanswered calls."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from holdfast.facts.notes import OUTCOME_ARROW, READ_MARK, WRITTEN_MARK, Notes, NotesSection
from holdfast.transcript.activity import Activity, Command, FileAccess
from holdfast.transcript.draft import Line
from holdfast.transcript.turn import Turn

SHOWN = 200
"""Characters of a command or a path that are told."""


def activity_notes(turns: Sequence[Turn], among: Iterable[int], seen: Activity) -> Notes:
    """Returns notes on the calls and results of the raw turns in `among`. `seen` is the activity of all `turns`."""
    here = set(among)
    reads = [_file(access, READ_MARK) for access in seen.reads if access.turn in here]
    writes = [_file(access, WRITTEN_MARK) for access in seen.writes if access.turn in here]
    return Notes(
        {
            NotesSection.FILES: tuple(sorted([*reads, *writes], key=lambda line: line.turns)),
            NotesSection.COMMANDS: tuple(_command(ran) for ran in seen.commands if ran.turn in here),
            NotesSection.STATE: tuple(_open(turns, seen.open_calls, here)),
        }
    )


def _file(access: FileAccess, how: str) -> Line:
    return Line(f"- {_one_line(access.path)}{how}", _sources(access.turn, access.result_turn))


def _command(ran: Command) -> Line:
    return Line(f"- {_one_line(ran.text)}{OUTCOME_ARROW}{_outcome(ran)}", _sources(ran.turn, ran.result_turn))


def _outcome(ran: Command) -> str:
    if ran.result_turn is None:
        return "no result"
    told = "" if ran.exit_code is None else f"exit {ran.exit_code}"
    tests = f"{ran.tests.passed} passed, {ran.tests.failed} failed" if ran.tests else ""
    error = _one_line(ran.error_line) if ran.failed else ""
    return "; ".join(filter(None, (told, tests, error))) or ("failed" if ran.failed else "ran")


def _open(turns: Sequence[Turn], unanswered: Iterable[int], here: set[int]) -> Iterator[Line]:
    for at in unanswered:
        if at in here:
            names = ", ".join(_one_line(call.name) for call in turns[at].calls) or "a command"
            yield Line(f"- Called without a result: {names}", (at,))


def _sources(turn: int, result: int | None) -> tuple[int, ...]:
    return (turn,) if result is None else (turn, result)


def _one_line(text: str) -> str:
    """Returns the text on one line, so that nothing in it can pass for a heading."""
    line = " ".join(text.split()).replace(OUTCOME_ARROW, " => ")
    return line if len(line) <= SHOWN else f"{line[:SHOWN]}… ({len(line) - SHOWN} more characters)"
