"""Masks observations: one line says what was there and how to get it back.

The line names the command or the file, the size, how it ended and the first error, as code knows them
(transcript/activity.py): the agent keeps what it did and how that went, and can ask for the rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from holdfast.methods.text.base import Room
from holdfast.methods.text.observations import MARK, expand_hint, shorten_observations
from holdfast.transcript.activity import Step
from holdfast.transcript.draft import Draft, Piece
from holdfast.transcript.outcomes import count_tests, find_error_line, read_exit_code
from holdfast.transcript.turn import Turn

_CALL = 100  # characters of a command that are shown


@dataclass(frozen=True)
class MaskObservations:
    """The oldest observations are masked first."""

    name: ClassVar[str] = "mask_observations"

    def rewrite(self, held: Draft, room: Room) -> Draft:
        by_result: dict[int, Step] = {}

        def mask(piece: Piece) -> str | None:
            if not by_result:  # only where something must be masked
                by_result.update(
                    {step.result: step for step in room.activity_of(held).steps if step.result is not None}
                )
            at = piece.turns[0]
            told = piece.turn.text.startswith(MARK)
            return None if told else _mask(held.raw.turns[at], at, by_result.get(at), room)

        return shorten_observations(held, room, self.name, mask)


def _mask(raw: Turn, at: int, step: Step | None, room: Room) -> str:
    code = read_exit_code(raw)
    facts = [_describe_source(step), f"{room.count(raw.text):,} tokens, {raw.text.count(chr(10)) + 1:,} lines"]
    facts += [] if code is None else [f"exit code {code}"]
    if tests := count_tests(raw.text) if step and step.action.commands else None:
        facts.append(f"tests: {tests.passed} passed, {tests.failed} failed, {tests.skipped} skipped")
    if raw.is_error or _may_tell_errors(step, code):
        facts += [f"first error: {line}"] if (line := find_error_line(raw.text)) else []
    return f"{MARK}{'; '.join(facts)}; back by: {expand_hint(at)}]"


def _may_tell_errors(step: Step | None, code: int | None) -> bool:
    """Returns False for a file's content and a command that succeeded: both may speak of errors without being one."""
    return code != 0 and not (step and step.action.reads and step.action.alone)


def _describe_source(step: Step | None) -> str:
    """Describes the command or the file that the observation is of."""
    if step is None:
        return "output of the harness"
    does = step.action
    if does.commands:
        text = " ".join("; ".join(does.commands).split())
        return f"output of `{text}`" if len(text) <= _CALL else f"output of `{text[: _CALL - 1]}…`"
    paths = [path + (f" ({part})" if part else "") for path, part in does.reads] or list(does.writes)
    return f"result of {step.name}" + (f" {', '.join(paths)}" if paths else "")
