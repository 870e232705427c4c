"""The log file: one JSON object per line, appended and synced before the session itself is touched.

A file's bytes stand in its event whole, zlib-compressed and in base64: one file to copy, back up or delete, and no
event depends on another. Side files would save a few bytes and could get lost.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import stat
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from holdfast.errors import BadInput, BadOption
from holdfast.storage.files import DISK, Disk, Lines, check

_SUFFIX = ".holdfast.jsonl"
COMPACT, EXPAND, UNDO, OVERWRITE = "compact", "expand", "undo", "overwrite"


@dataclass(frozen=True)
class Origin:
    """The origin of a turn."""

    turns: tuple[int, ...]
    """0-based raw turns: counted from the first that was ever said in the session."""
    made: str = ""
    """The method that made it, e.g. `mask_observations`; empty if it stands as it was said."""
    lines: tuple[tuple[int, ...], ...] = ()
    """The raw turns of each of its lines, where they have sources of their own."""


@dataclass(frozen=True)
class Event:
    """One change of a session file."""

    number: int
    """1-based, in the log's order."""
    kind: str
    """`compact`, `expand` or `undo`; `overwrite` where the file took the place of another one, by force."""
    time: str
    """UTC, ISO 8601."""
    before: bytes
    after: bytes
    plan: Mapping[str, Any] = field(default_factory=dict)
    """The plan; of an undo the event that it took back."""
    tokens_before: int = 0
    tokens: int = 0
    seconds: float = 0.0
    gate: Mapping[str, Any] = field(default_factory=dict)
    """The findings of the gate."""
    origins: tuple[Origin, ...] = ()
    """Of every turn of the file after; none for an undo."""


def log_path(session: Path) -> Path:
    """Returns the log beside a session; a link's log is beside the file that it leads to."""
    return companion_path(session, _SUFFIX)


def companion_path(session: Path, suffix: str) -> Path:
    """Returns the path of a file of Holdfast's own beside a session: the session's name and the suffix.

    Gemini CLI deletes, at every start, each `session-*.json*` among its chats that is no session, so there a dot stands
    before the name. A file that stands under the other of the two names only, is found there.
    """
    name, other = _companion_paths(session, suffix)
    return other if os.path.lexists(other) and not os.path.lexists(name) else name


def move_companion(session: Path, suffix: str, disk: Disk = DISK) -> Path:
    """Returns `companion_path` to write to: what an older version wrote where the agent deletes it is moved first."""
    path, (safe, _) = companion_path(session, suffix), _companion_paths(session, suffix)
    if path != safe and _is_swept(path):
        check(path)
        with suppress(FileNotFoundError):  # another holdfast moved it
            disk.move(path, safe)
        return safe
    return path


def _companion_paths(session: Path, suffix: str) -> tuple[Path, Path]:
    """Returns the name that a new file gets, and the other one that it may have."""
    real = session.resolve()
    plain, hidden = real.with_name(real.name + suffix), real.with_name(f".{real.name}{suffix}")
    return (hidden, plain) if _is_swept(plain) else (plain, hidden)


def _is_swept(path: Path) -> bool:
    return path.parent.name == "chats" and path.name.startswith("session-")


def check_output(path: Path, force: bool = False) -> None:
    """Raises BadOption if what is written to `path` would replace some session's log, and BadInput if it would go
    through a link, to another user's file or, without `force`, over any file.
    """
    if path.resolve().name.endswith(_SUFFIX):
        raise BadOption(f"{path}: the name of a log, which holds the past of a session; give another name")
    if check(path) is not None and not force:
        raise BadInput(
            f"{path} stands there already; give another name, or --force to overwrite it, and `holdfast undo {path}` "
            "brings it back"
        )


def now() -> str:
    """Returns the time, in UTC and ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def read_log(session: Path) -> tuple[Event, ...]:
    """Returns all events, the oldest first. A line torn by a crash is passed over: its change never took place.

    Raises BadInput if an event's bytes are not those that were stored.
    """
    path = log_path(session)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return ()
    events: list[Event] = []
    for number, line in enumerate(data.split(b"\n"), 1):
        try:
            fields = json.loads(line)
        except (ValueError, RecursionError):
            continue
        try:
            events.append(_event(fields))
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError, zlib.error) as error:
            raise BadInput(
                f"{path}:{number}: not an event of holdfast, or damaged; restore the log from a copy, or move it away"
            ) from error
    return tuple(events)


@contextmanager
def open_log(session: Path, like: Path, disk: Disk = DISK) -> Iterator[Lines]:
    """Opens the log to append to, by one writer at a time; the lock ends with the process.

    Raises Failed if another has it, BadInput for a link. Who can read the session `like` can read the log, and nobody
    else.
    """
    with Lines(move_companion(session, _SUFFIX, disk), mode=mode_of(like), disk=disk) as lines:
        lines.lock()
        yield lines


def append(lines: Lines, event: Event) -> None:
    """Writes an event and waits until it is on the disk."""
    lines.append(json.dumps(_fields(event)), sync=True)


def mode_of(path: Path) -> int:
    """Returns the permissions of a file."""
    return stat.S_IMODE(path.stat().st_mode) & 0o666


def _fields(event: Event) -> dict[str, Any]:
    return {
        "event": event.number,
        "kind": event.kind,
        "time": event.time,
        "plan": dict(event.plan),
        "tokens_before": event.tokens_before,
        "tokens": event.tokens,
        "seconds": event.seconds,
        "gate": dict(event.gate),
        "origins": [[origin.turns, origin.made, origin.lines] for origin in event.origins],
        "before": _pack(event.before),
        "after": _pack(event.after),
    }


def _event(fields: dict[str, Any]) -> Event:
    plan, gate, kind = dict(fields["plan"]), dict(fields["gate"]), str(fields["kind"])
    if not isinstance(gate.get("lost", []), list) or (kind == UNDO and not isinstance(plan["of"], int)):
        raise TypeError("what was lost is a list, and an undo names an event by its number")
    return Event(
        number=int(fields["event"]),
        kind=kind,
        time=str(fields["time"]),
        before=_unpack(fields["before"]),
        after=_unpack(fields["after"]),
        plan=plan,
        tokens_before=int(fields["tokens_before"]),
        tokens=int(fields["tokens"]),
        seconds=float(fields["seconds"]),
        gate=gate,
        origins=tuple(
            Origin(_numbers(turns), str(made), tuple(_numbers(line) for line in lines))
            for turns, made, lines in fields["origins"]
        ),
    )


def _numbers(values: list[Any]) -> tuple[int, ...]:
    return tuple(int(value) for value in values)


def _pack(data: bytes) -> dict[str, Any]:
    return {
        "sha256": digest(data),
        "bytes": len(data),
        "zlib": base64.b64encode(zlib.compress(data, 9)).decode(),
    }


def _unpack(fields: dict[str, Any]) -> bytes:
    data = zlib.decompressobj().decompress(base64.b64decode(fields["zlib"]), max(1, int(fields["bytes"])))
    if digest(data) != fields["sha256"]:
        raise ValueError("the bytes do not have the digest that was written with them")
    return data


def digest(data: bytes) -> str:
    """Returns SHA-256, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()
