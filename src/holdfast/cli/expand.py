"""`holdfast expand`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli import console
from holdfast.cli.options import AsJson, ForceInPlace
from holdfast.cli.turns import event_as_json, print_turn, turn_as_json
from holdfast.errors import BadOption, Failed, Missing

_SECONDS = 10.0


def expand(
    file: Annotated[
        str, typer.Argument(help="A session that was compacted, or the address of one that `holdfast proxy` holds.")
    ],
    turn: Annotated[int, typer.Argument(help="Number of the raw turn, from 1, as `show` and `diff` name it.")],
    in_place: Annotated[bool, typer.Option("--in-place", help="Put it back into the session.")] = False,
    force: ForceInPlace = False,
    as_json: AsJson = False,
) -> None:
    """Prints a turn in full, as it was said, whatever became of it since."""
    if file.startswith(("http://", "https://")):
        if in_place:
            raise BadOption("--in-place is for session files; the proxy only shows what an agent sent")
        console.line(fetch_turn(file, turn, as_json))
        return
    from holdfast.text.file_log import expand_file, read_lineage
    from holdfast.text.file_log.change_file import raw_turn

    path = Path(file)
    raw = raw_turn(read_lineage(path), turn, path)
    event = expand_file(path, turn, force=force) if in_place else None
    if as_json:
        console.emit(
            {"turn": turn, **turn_as_json(raw), **({"event": event and event_as_json(event)} if in_place else {})}
        )
        return
    print_turn(turn, raw)
    if in_place:
        console.say(f"put back (event {event.number})" if event else "it stands in the session as it was said")


def fetch_turn(address: str, turn: int, as_json: bool) -> str:
    """Returns a turn of a session of the proxy. Raises Missing or Failed."""
    import urllib.error
    import urllib.request

    kind = "application/json" if as_json else "text/plain"
    asked = urllib.request.Request(f"{address.rstrip('/')}/{turn}", headers={"accept": kind})
    # A proxy of the system's settings would be asked for an address of this machine.
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(asked, timeout=_SECONDS) as answer:
            return str(answer.read().decode()).rstrip("\n")
    except urllib.error.HTTPError as error:
        raise Missing(f"{address} has no turn {turn}: {error.read().decode(errors='replace')[:300]}") from None
    except OSError as error:
        raise Failed(f"{address} cannot be reached ({error}); check that the proxy runs") from None
