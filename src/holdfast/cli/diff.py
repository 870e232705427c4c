"""`holdfast diff`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from holdfast.cli import console
from holdfast.cli.options import AsJson, CompactedSession
from holdfast.cli.turns import event_as_json, one_based

if TYPE_CHECKING:
    from holdfast.text.file_log import Event, Lineage
    from holdfast.text.file_log.describe import Fate
    from holdfast.text.file_log.lineage import State


def diff(
    file: CompactedSession,
    event: Annotated[int | None, typer.Option(help="Number of the change; see `log`. Default: the last.")] = None,
    full: Annotated[bool, typer.Option("--full", help="Print a unified diff of all that is said.")] = False,
    as_json: AsJson = False,
) -> None:
    """Says what a change made of each turn: verbatim, rewritten or dropped."""
    from holdfast.text.file_log import read_lineage
    from holdfast.text.file_log.describe import diff_lines, turn_fates
    from holdfast.text.file_log.lineage import parse_version

    change, state = _find_change(read_lineage(file), event, file)
    before, after = state.transcript.turns, parse_version(change.after, file).turns
    turns = turn_fates(change, before, state.origins, after)
    lines = diff_lines(before, after, file.name) if full else []
    if as_json:
        rows = [{**vars(fate), "turns": one_based(fate.turns)} for fate in turns]
        console.emit({**event_as_json(change), "turns": rows, **({"diff": lines} if full else {})})
        return
    console.line(
        f"event {change.number}: {change.kind}, {change.tokens_before:,} -> {change.tokens:,} tokens; "
        + ", ".join(
            f"{sum(fate.fate == name for fate in turns)} {name}" for name in ("verbatim", "rewritten", "dropped")
        )
    )
    for text in lines if full else map(_row, turns):
        console.line(text)


def _find_change(past: Lineage, number: int | None, file: Path) -> tuple[Event, State]:
    from holdfast.errors import BadOption

    steps = {event.number: (event, state) for event, state in past.steps}
    if not steps:
        raise BadOption(f"{file}: its log holds no change that it came from; compact it first")
    if number is not None and number not in steps:
        raise BadOption(f"{file} did not come from event {number}; it came from {', '.join(map(str, steps))}")
    return steps[max(steps) if number is None else number]


def _row(fate: Fate) -> str:
    from holdfast.transcript.draft import turn_ranges

    size = f"{fate.tokens_before:>8,}" + (f" -> {fate.tokens:>7,}" if fate.fate == "rewritten" else "")
    return f"  {turn_ranges(fate.turns) or '-':>8}  {fate.role:<9}  {fate.fate:<9} {size:<20} {fate.by}"
