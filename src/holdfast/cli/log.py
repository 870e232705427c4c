"""`holdfast log`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.cli import console
from holdfast.cli.options import AsJson, CompactedSession
from holdfast.cli.turns import event_as_json

if TYPE_CHECKING:
    from holdfast.text.file_log import Event


def log(file: CompactedSession, as_json: AsJson = False) -> None:
    """Lists what was done to a session, the newest last."""
    from holdfast.text.file_log import read_lineage, read_log

    events = read_log(file)
    changes = any(event.kind != "overwrite" for event in events)  # a page that was overwritten has no turns
    standing = {event.number for event, _ in read_lineage(file).steps} if changes else set()
    if as_json:
        console.emit([{**event_as_json(event), "stands": event.number in standing} for event in events])
        return
    if not events:
        console.line(f"{file}: no changes logged")
    for event in events:
        stands = event.number in standing or event.kind in ("undo", "overwrite")
        state = "" if stands else "  (taken back, or never took place)"
        change = f"{event.tokens_before:>9,} -> {event.tokens:>9,} tokens"
        console.line(f"{event.number:>4}  {event.time}  {event.kind:<8}{change}  {_plan(event)}{state}")


def _plan(event: Event) -> str:
    return " ".join(f"{key}={value}" for key, value in event.plan.items() if value is not None)
