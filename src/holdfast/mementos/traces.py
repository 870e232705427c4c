"""Traces: lines of work as units that may not be cut, from a session of any format or from a chain of thought.

The units of a session are its exchanges (`transcript/cuts.py`): a block ends behind an action and its observations, and
nowhere else. Those of a chain of thought are its sentences.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from holdfast.errors import BadInput, HoldfastError
from holdfast.mementos.sentences import split_sentences
from holdfast.transcript.cuts import exchanges
from holdfast.transcript.read import read
from holdfast.transcript.task import find_task
from holdfast.transcript.token_estimate import estimate_tokens
from holdfast.transcript.turn import Role, Transcript, Turn

OPENS, CLOSES = "<think>\n", "\n</think>\n\n"


@dataclass(frozen=True)
class Trace:
    """A line of work. `prefix`, the joined units and `suffix` are all of it."""

    id: str
    units: tuple[str, ...]
    turns: tuple[tuple[Turn, ...], ...] = ()
    """The turns of each unit of a session; empty for a chain of thought."""
    prefix: str = ""
    suffix: str = ""
    transcript: Transcript | None = None
    first: int = 0
    """The turn of the transcript with which the first unit begins."""

    @property
    def tokens(self) -> list[int]:
        """Tokens of each unit, at least 1."""
        return [max(1, estimate_tokens(unit)) for unit in self.units]


def read_traces(path: Path, warn: Callable[[str], object]) -> list[Trace]:
    """Reads a session of any format, or JSON lines with a chain of thought each (`cot` or `text`, and `task_id`).

    A line without `</think>` is left out, with a warning. Raises BadInput for a file that is neither.
    """
    try:
        return [trace_of_session(read(path, lenient=True), path.name)]
    except HoldfastError as refused:
        if path.suffix != ".jsonl":
            raise
        found = list(_read_thoughts(path, warn))
        if not found:
            raise BadInput(
                f"{path}: neither a session nor JSON lines with the fields `task_id` and `cot`: {refused}"
            ) from refused
        return found


def trace_of_session(transcript: Transcript, name: str) -> Trace:
    """Returns a session as a trace. What stands before the first exchange behind the task is its prefix."""
    turns, task = transcript.turns, find_task(transcript.turns)
    spans = exchanges(transcript)
    head = 0 if task is None else next(stop for first, stop in spans if first <= task < stop)
    rest = [(first, stop) for first, stop in spans if first >= head]
    units = tuple("".join(map(write_turn, turns[first:stop])) for first, stop in rest)
    groups = tuple(turns[first:stop] for first, stop in rest)
    return Trace(name, units, groups, "".join(map(write_turn, turns[:head])), "", transcript, head)


def write_turn(turn: Turn) -> str:
    """Returns a turn as text."""
    calls = "".join(f"{call.name}({call.arguments})\n" for call in turn.calls)
    said = "\n".join(part for part in (turn.reasoning, turn.text) if part)
    return f"[{turn.role.value}]\n{said}\n{calls}" if said or not calls else f"[{turn.role.value}]\n{calls}"


def trace_of_thought(text: str, name: str) -> Trace:
    """Returns a chain of thought as a trace; `<think>` and what follows `</think>` are its prefix and suffix."""
    before, opened, rest = text.partition("<think>")
    thought, closed, answer = (rest if opened else before).partition("</think>")
    prefix, suffix = f"{before}<think>" if opened else "", f"</think>{answer}" if closed else ""
    return Trace(name, tuple(split_sentences(thought)), (), prefix, suffix)


def as_transcript(texts: tuple[str, ...]) -> Transcript:
    """Returns texts of a chain of thought as turns of an assistant, in which facts are found."""
    return Transcript(tuple(Turn(Role.ASSISTANT, text) for text in texts))


def _read_thoughts(path: Path, warn: Callable[[str], object]) -> Iterator[Trace]:
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        row: Any = None
        try:
            row = json.loads(line)
        except ValueError:
            warn(f"{path.name}:{number}: no JSON, left out")
        text = (row.get("cot") or row.get("text")) if isinstance(row, dict) else None
        if not isinstance(text, str):
            continue
        if "<think>" in text and "</think>" not in text:
            warn(f"{path.name}:{number}: the thought does not end (no </think>), left out")
            continue
        name = row.get("task_id") or f"{path.stem}-{number}"
        yield replace(trace_of_thought(text, str(name)))
