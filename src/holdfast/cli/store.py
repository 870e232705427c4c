"""`holdfast store`."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.cli import console
from holdfast.cli.options import AsJson
from holdfast.errors import BadOption

if TYPE_CHECKING:
    from holdfast.session.retention import StoredSession

ACTIONS = ("list", "prune")


def store(
    action: Annotated[str, typer.Argument(help="list or prune.")] = "list",
    url: Annotated[
        str, typer.Option("--store", "--dir", help="Folder or fsspec URL of the sessions.", show_default="ours")
    ] = "",
    max_store: Annotated[float | None, typer.Option(help="prune: GiB that stay, the newest sessions first.")] = None,
    max_age: Annotated[float | None, typer.Option(help="prune: days since its last use that a session stays.")] = None,
    session: Annotated[list[str] | None, typer.Option(help="prune: a session to drop, by its id.")] = None,
    unreadable: Annotated[
        bool, typer.Option("--unreadable", help="prune: drop the sessions that cannot be read.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="prune: say what would go, and drop nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Lists the sessions that `serve` holds, with their sizes, or drops some. Stop the server before you prune."""
    if action not in ACTIONS:
        raise BadOption(f"holdfast store takes list or prune, got {action!r}")
    if action == "list":
        _list(url, as_json)
        return
    if max_store is None and max_age is None and not session and not unreadable:
        raise BadOption("say what goes: --max-store GIB, --max-age DAYS, --session ID or --unreadable")
    from holdfast.session.retention import DAY, StoreLimits, prune

    nbytes = None if max_store is None else round(max_store * 2**30)
    limits = StoreLimits(nbytes, None if max_age is None else max_age * DAY)
    pruned = prune(_open(url), limits, names=session or (), unreadable=unreadable, dry_run=dry_run)
    if as_json:
        console.emit(
            {
                "dropped": [{**_row(one), "reason": reason} for one, reason in pruned.dropped],
                "kept": len(pruned.kept),
                "freed_bytes": pruned.freed,
                "dry_run": dry_run,
            }
        )
        return
    for one, reason in pruned.dropped:
        console.line(f"{one.name}  {_size(one.nbytes)}  {'would go' if dry_run else 'dropped'}: {reason}")
    freed = "nothing is dropped in a dry run" if dry_run else f"{_size(pruned.freed)} freed"
    console.line(f"{len(pruned.dropped)} of {len(pruned.dropped) + len(pruned.kept)} sessions; {freed}")


def _list(url: str, as_json: bool) -> None:
    from holdfast.session.retention import list_sessions, total_bytes

    opened = _open(url)
    sessions = list_sessions(opened)
    if as_json:
        console.emit({"store": opened.url, "bytes": total_bytes(sessions), "sessions": list(map(_row, sessions))})
        return
    for one in sessions:
        when = datetime.fromtimestamp(one.updated, UTC).astimezone().strftime("%Y-%m-%d %H:%M")
        about = f"cannot be read: {one.problem}" if one.problem else f"{when}  {one.turns:>4} turns  {one.title}"
        console.line(f"{one.name}  {_size(one.nbytes):>9}  {about}")
    console.line(f"{len(sessions)} sessions, {_size(total_bytes(sessions))} in {opened.url}")


def _open(url: str) -> Any:
    from holdfast.config import home
    from holdfast.storage.store import Store

    return Store(url or str(home() / "sessions"))


def _row(one: StoredSession) -> dict[str, Any]:
    return {
        "session": one.name,
        "title": one.title,
        "turns": one.turns,
        "bytes": one.nbytes,
        "updated": one.updated,
        "days": round((time.time() - one.updated) / 86_400, 2) if one.updated else None,
        "model": one.model,
        "problem": one.problem,
    }


def _size(nbytes: int) -> str:
    size = float(nbytes)
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.{0 if unit == 'B' else 1}f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
