"""`holdfast undo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from holdfast import outputs
from holdfast.cli import console
from holdfast.cli.options import AsJson, CompactedSession, ForceInPlace
from holdfast.cli.turns import event_as_json


def undo(
    file: CompactedSession,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write the session as it was here; leave FILE alone.")
    ] = None,
    force: ForceInPlace = False,
    as_json: AsJson = False,
) -> None:
    """Takes back the last change; turns that came later stay."""
    from holdfast.text.file_log import undo_file

    if output is not None:
        outputs.check_output(output, file, force=force)
    event = undo_file(file, output, force=force)
    if as_json:
        console.emit({"file": str(output or file), "undone": event_as_json(event)})
        return
    if event.kind == "overwrite":
        console.line(f"event {event.number} (overwrite) taken back: {output or file} is what stood there before it")
        return
    tokens = f"{event.tokens_before:,} tokens"
    where = f"{output} has" if output else f"{file} has again"
    console.line(f"event {event.number} ({event.kind}) taken back: {where} the {tokens} from before it")
