"""Writes a change: the event first, then the file, and behind it what an agent appended meanwhile.

A change that only appends, as the compactions of Codex and pi do, is appended. Any other takes the file's place, and
what stood there at that moment is compared with what the change was made from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from holdfast.errors import BadTranscript, Conflict
from holdfast.storage import files, handles
from holdfast.storage.files import DISK, Disk, Lines
from holdfast.text.file_log.lineage import find_applied_events, parse_version
from holdfast.text.file_log.log import OVERWRITE, Event, append, check_output, mode_of, now, open_log, read_log
from holdfast.text.file_log.three_way_merge import three_way_merge

_LOOKS = 5
"""How often the file is read again before a record is appended, where an agent writes faster than it is parsed."""


def write_in_place(path: Path, event: Event, *, force: bool = False, disk: Disk = DISK) -> Event:
    """Returns the event as it was logged; the file is then `event.after`, and behind it what was appended meanwhile.

    Raises BadInput for a link or another user's file, Failed where another holdfast is writing, and Conflict where the
    file was changed by more than appending, or, without `force`, where a process has it open to write.
    """
    files.check(path)
    grows = event.after.startswith(event.before)
    if not (force or grows):
        check_released(path)
    merge = partial(_merge_appended, path, event)
    with open_log(path, path, disk) as lines:
        merge(disk.read(path))
        logged = replace(event, number=_next(read_log(path)))
        append(lines, logged)
        if grows:
            _extend(path, event, disk)
        else:
            files.exchange(path, event.after, merge, wait=not force, disk=disk)
    return logged


def write_copy(path: Path, event: Event, output: Path, *, force: bool = False, disk: Disk = DISK) -> Event:
    """Returns the event as it was logged beside `output`, which takes the past of `path` along.

    Raises BadInput where something stands there; with `force` that goes to the log first.
    """
    check_output(output, force)
    with open_log(output, path, disk) as lines:
        old = _log_overwrite(output, event.after, lines, disk)
        logged = event
        older = find_applied_events(read_log(path), event.before, path)
        for number, one in enumerate((*older, event), _next(read_log(output))):
            logged = replace(one, number=number)
            append(lines, logged)
        _put(output, event.after, old, mode_of(path), disk)
    return logged


def write_output(path: Path, data: bytes, *, like: Path | None = None, force: bool = False, disk: Disk = DISK) -> None:
    """Writes a file that was asked for, with the permissions of `like` if it is new.

    Raises BadInput if something stands there; with `force` that goes to the log beside it first, so that `undo` brings
    it back.
    """
    check_output(path, force)
    mode = None if like is None else mode_of(like)
    if files.check(path) is None:
        _put(path, data, None, mode, disk)
        return
    with open_log(path, path, disk) as lines:
        _put(path, data, _log_overwrite(path, data, lines, disk), mode, disk)


def check_released(path: Path) -> None:
    """Raises Conflict if another process has the file open to write, as far as the system tells."""
    if found := handles.keepers(path):
        names = ", ".join(f"{name} ({process})" for process, name in found.items())
        raise Conflict(
            f"{path} is open in {names}, which would go on in the old file; stop the agent first, or use the proxy "
            "(--force replaces the file all the same)"
        )


def _put(path: Path, data: bytes, old: bytes | None, mode: int | None, disk: Disk) -> None:
    """Writes a file where `old` stands, or nothing. Raises Conflict if that is no longer so."""

    def same(found: bytes) -> bytes:
        if found != old:
            raise Conflict(
                f"{path} changed while it was being overwritten; it was left as it is, run the command again"
            )
        return b""

    if old is not None:
        files.exchange(path, data, same, disk=disk)
        return
    try:
        files.create(path, data, mode=mode, disk=disk)
    except FileExistsError:
        raise Conflict(f"{path} was written by somebody else meanwhile; it was left as it is") from None


def _log_overwrite(path: Path, data: bytes, lines: Lines, disk: Disk) -> bytes | None:
    """Logs the bytes of the file that `data` will overwrite and returns them; None if there is none."""
    if files.check(path) is None:
        return None
    check_released(path)
    old = disk.read(path)
    append(lines, Event(_next(read_log(path)), OVERWRITE, now(), before=old, after=data))
    return old


def _merge_appended(path: Path, event: Event, found: bytes) -> bytes:
    """Returns what goes behind `event.after` for what was appended to `event.before` until the file was `found`.

    Raises Conflict if it was changed otherwise, or if the session could not go on so behind the change.
    """
    if found == event.before:
        return b""
    whole = three_way_merge(event.after, event.before, found) if found.startswith(event.before) else None
    if whole is None or not _goes_on(path, event, found, whole):
        raise Conflict(f"{path} changed while it was being rewritten; it was left as it is, run the command again")
    return whole[len(event.after) :]


def _goes_on(path: Path, event: Event, found: bytes, whole: bytes) -> bool:
    """Returns True if all that can be read of what was appended can also be read behind the change."""
    try:
        left_out = [len(parse_version(data, path).skipped) for data in (event.before, found, event.after, whole)]
    except BadTranscript:
        return False
    return left_out[3] - left_out[2] <= left_out[1] - left_out[0]


def _extend(path: Path, event: Event, disk: Disk) -> None:
    """Appends what the event adds. Lines that an agent wrote first stand before it; if the format lets a compaction
    hide them, they are said again behind it, as `without_record` knows.
    """
    record, start = event.after[len(event.before) :], len(event.before)
    hidden, found = False, disk.read(path)
    for _ in range(_LOOKS):
        hidden = _is_hidden(path, event, found[start:])
        seen, found = found, disk.read(path)
        if found == seen:
            break
    files.append(path, record + (found[start:] if hidden else b""), disk=disk)
    whole = disk.read(path)
    end = max(whole.find(record, len(found)), len(found))
    missed = whole[len(found) : end]
    if missed and not hidden and _is_hidden(path, event, whole[start:end]):  # a line is read behind those before it
        missed, hidden = whole[start:end], True
    if missed and hidden:
        files.append(path, missed, disk=disk)


def _is_hidden(path: Path, event: Event, between: bytes) -> bool:
    """Returns whether what stands between the file and the record of its compaction is not read, but is behind it."""
    if not between:
        return False
    record = event.after[len(event.before) :]
    turns = [
        len(parse_version(data, path).turns)
        for data in (event.before, event.before + between, event.after, event.before + between + record)
    ]
    new = turns[1] - turns[0]
    behind = event.before + between + record + between
    return new > 0 and turns[3] == turns[2] and len(parse_version(behind, path).turns) == turns[2] + new


def _next(events: Sequence[Event]) -> int:
    return events[-1].number + 1 if events else 1
