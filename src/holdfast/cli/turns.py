"""Turns and events as commands print them. Turns are numbered from 1 wherever a person reads them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from holdfast.cli import console

if TYPE_CHECKING:
    from holdfast.text.file_log import Event
    from holdfast.transcript.turn import Turn


def event_as_json(event: Event) -> dict[str, Any]:
    """Returns an event for scripts: its numbers, its plan and the digests of both versions."""
    from holdfast.text.file_log.log import digest

    fields = {name: getattr(event, name) for name in ("number", "kind", "time", "tokens_before", "tokens", "seconds")}
    records = {"plan": dict(event.plan), "gate": dict(event.gate)}
    return {**fields, **records, "sha256_before": digest(event.before), "sha256_after": digest(event.after)}


def turn_as_json(turn: Turn) -> dict[str, Any]:
    """Returns all that a turn says, for scripts."""
    calls = [{"id": call.id, "name": call.name, "arguments": call.arguments} for call in turn.calls]
    return {"role": turn.role.value, "text": turn.text, "reasoning": turn.reasoning, "calls": calls}


def print_turn(number: int, turn: Turn) -> None:
    """Prints a turn in full under a heading with its number, from 1."""
    from holdfast.text.file_log.describe import turn_label, turn_lines

    console.line(f"== {turn_label(number, turn)}")
    for text, _ in turn_lines(turn):
        console.line(text)


def one_based(turns: Sequence[int]) -> list[int]:
    """Returns stored turn numbers, from 0, as they are shown."""
    return [at + 1 for at in turns]
