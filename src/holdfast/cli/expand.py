"""`holdfast expand`."""

from __future__ import annotations

from typing import Annotated

import typer

from holdfast.cli import console
from holdfast.cli.options import AsJson, CompactedSession, ForceInPlace
from holdfast.cli.turns import event_as_json, print_turn, turn_as_json


def expand(
    file: CompactedSession,
    turn: Annotated[int, typer.Argument(help="Number of the raw turn, from 1, as `show` and `diff` name it.")],
    in_place: Annotated[bool, typer.Option("--in-place", help="Put it back into the session.")] = False,
    force: ForceInPlace = False,
    as_json: AsJson = False,
) -> None:
    """Prints a turn in full, as it was said, whatever became of it since."""
    from holdfast.text.file_log import expand_file, read_lineage
    from holdfast.text.file_log.change_file import raw_turn

    raw = raw_turn(read_lineage(file), turn, file)
    event = expand_file(file, turn, force=force) if in_place else None
    if as_json:
        console.emit(
            {"turn": turn, **turn_as_json(raw), **({"event": event and event_as_json(event)} if in_place else {})}
        )
        return
    print_turn(turn, raw)
    if in_place:
        console.say(f"put back (event {event.number})" if event else "it stands in the session as it was said")
