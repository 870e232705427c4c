"""The one writer of files: no other module opens a file for writing.

A file appears whole or not at all: it is written under a random name in the same folder, and then takes its place. No
write follows a link, none goes to a file of another user, and the permissions of what stood there stay.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Self

from holdfast.errors import BadInput, Conflict, Failed, HoldfastError
from holdfast.storage import handles
from holdfast.storage.lock import lock, unlock
from holdfast.storage.swap import swap

AGE = 3600.0
"""Seconds after which a spare file was left over: no write takes as long."""
_SPARE = re.compile(r"\.holdfast-\w{8,16}\.tmp|\..+\.holdfast\.tmp|\..+\.(holdfast|pages)\.\d+\.tmp")
_FLAGS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)


class Disk:
    """The steps of a write. A test passes one that does something between two of them."""

    def create(self, path: Path, mode: int) -> int:
        """Returns the descriptor of a new file. Raises FileExistsError if the name is taken, also by a link."""
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _FLAGS, mode)

    def extend(self, path: Path) -> int:
        """Returns the descriptor of an existing file, to append to. Raises OSError for a link."""
        return os.open(path, os.O_RDWR | os.O_APPEND | _FLAGS)

    def write(self, descriptor: int, data: bytes) -> None:
        """Writes all of `data`, in one call of the system if it takes it at once."""
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]

    def sync(self, descriptor: int) -> None:
        os.fsync(descriptor)

    def read(self, path: Path) -> bytes:
        """Raises OSError for a link."""
        with open(os.open(path, os.O_RDONLY | _FLAGS), "rb") as file:  # noqa: PTH123
            return file.read()

    def swap(self, one: Path, other: Path) -> None:
        """Exchanges the names of two files."""
        swap(one, other)

    def move(self, source: Path, target: Path) -> None:
        """Moves `source` to the place of `target`."""
        source.replace(target)

    def link(self, source: Path, target: Path) -> None:
        """Gives a file a second name. Raises FileExistsError if it is taken."""
        os.link(source, target, follow_symlinks=False)

    def remove(self, path: Path) -> None:
        path.unlink(missing_ok=True)


DISK = Disk()


def check(path: Path) -> os.stat_result | None:
    """Returns the status of the file at `path`, where a file may be written, or None if there is none.

    Raises BadInput for a link, for what is no file, and for another user's file.
    """
    try:
        held = path.lstat()
    except FileNotFoundError:
        return None
    if stat.S_ISLNK(held.st_mode):
        raise BadInput(
            f"{path} is a link to {path.readlink()}, and nothing is written through a link; give the file itself, or "
            "remove the link"
        )
    if not stat.S_ISREG(held.st_mode):
        raise BadInput(f"{path} is no file; give another name")
    if hasattr(os, "geteuid") and held.st_uid != os.geteuid():
        raise BadInput(f"{path} belongs to user {held.st_uid}, not to {os.geteuid()}; work as its owner, or on a copy")
    return held


def replace(path: Path, data: bytes, *, mode: int | None = None, disk: Disk = DISK) -> None:
    """Puts `data` at `path`, over what stands there. A new file has `mode`, else what the user's mask leaves.

    Raises BadInput as `check` does, OSError if the disk refuses.
    """
    with _spare(path, data, mode, disk) as spare:
        check(path)
        disk.move(spare, path)
        sync_folder(path.parent)


def create(path: Path, data: bytes, *, mode: int | None = None, disk: Disk = DISK) -> None:
    """Puts `data` at a name that is free. Raises FileExistsError if it is taken, also by a link."""
    with _spare(path, data, mode, disk) as spare:
        disk.link(spare, path)
        sync_folder(path.parent)


def exchange(path: Path, data: bytes, merge: Callable[[bytes], bytes], *, wait: bool = True, disk: Disk = DISK) -> None:
    """Puts `data` in place of a file that somebody else may be writing, and loses nothing of what is written meanwhile.

    The files change names, and what stood there at that moment goes to `merge`, which gives the bytes to append behind
    `data`, or raises: then the file is put back. Whoever still has the old file open to write is waited for, if `wait`.
    """
    with _spare(path, data, None, disk) as spare:
        disk.swap(spare, path)
        try:
            rest = merge(_read_settled(spare, wait, disk))
        except (HoldfastError, OSError):
            disk.swap(spare, path)
            rest = _read_settled(spare, wait, disk)[len(data) :]
            if rest:
                append(path, rest, disk=disk)
            raise
        if rest:
            append(path, rest, disk=disk)
        sync_folder(path.parent)


def append(path: Path, data: bytes, *, disk: Disk = DISK) -> None:
    """Appends bytes to an existing file, wherever its end is by then, and waits until they are on the disk."""
    check(path)
    descriptor = disk.extend(path)
    try:
        disk.write(descriptor, data)
        disk.sync(descriptor)
    finally:
        os.close(descriptor)


class Lines:
    """An append-only file of JSON lines. A line is there whole or not at all, and those of two writers do not mix."""

    def __init__(self, path: Path, *, mode: int | None = None, disk: Disk = DISK) -> None:
        """Opens the file, or creates it with `mode`. Raises BadInput as `check` does, OSError if it
        cannot be written.
        """
        self.path, self._disk, self._alone = path, disk, False
        if check(path) is None:
            with suppress(FileExistsError):  # another writer was faster
                os.close(disk.create(path, 0o666 if mode is None else mode))
        self._file = disk.extend(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def lock(self, *, wait: bool = False) -> None:
        """Keeps other writers out until the file is closed. Raises Failed if another has it, or waits for that one."""
        try:
            lock(self._file, wait)
        except OSError:
            raise Failed(f"another holdfast is writing {self.path}; run the command again") from None
        self._alone = True

    def append(self, line: bytes | str, *, sync: bool = False) -> None:
        """Adds one line of JSON, after what an interrupted writer left half written is cut off; `sync` waits until it
        is on the disk. Raises OSError with the name of the file.
        """
        data = line.encode() if isinstance(line, str) else line
        torn = not self._alone and self._is_torn()
        try:
            if torn:
                lock(self._file, True)  # or two writers would cut, the slower one the faster one's line
            self._disk.write(self._file, self._line_end() + data + b"\n")
            if sync:
                self._disk.sync(self._file)
        except OSError as error:  # a write knows no name; the user needs one to make room
            raise OSError(error.errno, error.strerror, str(self.path)) from error
        finally:
            if torn:
                unlock(self._file)

    def close(self) -> None:
        os.close(self._file)

    def _is_torn(self) -> bool:
        size = os.fstat(self._file).st_size
        return size > 0 and _at(self._file, size - 1, 1) != b"\n"

    def _line_end(self) -> bytes:
        """Returns the line end that is missing behind a last line which is whole but for it."""
        if not self._is_torn():
            return b""
        size = os.fstat(self._file).st_size
        start = _at(self._file, 0, size).rfind(b"\n") + 1
        last = _at(self._file, start, size - start)
        if _is_json(last) or not last.startswith(b"{"):  # what was never a line of ours is nobody's to cut
            return b"\n"
        os.ftruncate(self._file, start)
        return b""


class FileLock:
    """A lock that processes share by the name of a file; the system gives it back when its last holder ends.

    A process that inherits the descriptor holds the lock with its parent, and goes on holding it alone.
    """

    def __init__(self, path: Path) -> None:
        """Opens the file, or creates it. Raises BadInput as `check` does, OSError if it cannot be written."""
        check(path)
        self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT | _FLAGS, 0o600)

    def take(self, *, wait: bool = False) -> bool:
        """Returns True once the lock is held, False if another process holds it and nobody wants to `wait`."""
        try:
            lock(self.descriptor, wait)
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Lets go of this holder's share."""
        os.close(self.descriptor)


def stage(path: Path, data: bytes, *, mode: int = 0o600, disk: Disk = DISK) -> None:
    """Writes a new file durably where only its writer looks. Raises FileExistsError if the name is taken."""
    descriptor = disk.create(path, mode)
    try:
        disk.write(descriptor, data)
        disk.sync(descriptor)
    finally:
        os.close(descriptor)


def fresh(path: Path) -> BinaryIO:
    """Opens a new file to write. Raises FileExistsError if the name is taken, also by a link."""
    return os.fdopen(DISK.create(path, 0o600), "wb")


@contextmanager
def workshop(folder: Path) -> Iterator[Path]:
    """Yields a folder of a random name in `folder`, for its owner alone, where a library writes files by itself.

    What is done goes to its place by `install`; the rest is removed.
    """
    sweep(folder)
    with tempfile.TemporaryDirectory(
        dir=folder, prefix=".holdfast-", suffix=".tmp", ignore_cleanup_errors=True
    ) as name:
        yield Path(name)


def install(made: Path, path: Path, *, disk: Disk = DISK) -> None:
    """Moves a file, or a new folder, from a temporary folder to its place, durably. Raises as `replace` does."""
    if made.is_dir():
        for file in made.iterdir():
            sync_file(file)
        made.rename(path)
    else:
        if (held := check(path)) is not None:
            made.chmod(stat.S_IMODE(held.st_mode) & 0o777)
        sync_file(made)
        disk.move(made, path)
    sync_folder(path.parent)


def remove_folder(folder: Path) -> None:
    """Removes a folder that Holdfast wrote: its name is gone at once, whatever interrupts the rest."""
    spare = folder.with_name(f".holdfast-{secrets.token_hex(8)}.tmp")
    folder.rename(spare)
    shutil.rmtree(spare, ignore_errors=True)


def sweep(folder: Path) -> None:
    """Removes what writers that were killed left in a folder."""
    try:
        entries = [entry for entry in os.scandir(folder) if _SPARE.fullmatch(entry.name)]
    except OSError:  # whoever writes there next says why
        return
    for entry in entries:
        with suppress(FileNotFoundError, PermissionError):  # another one sweeps, too; or it is another user's
            if time.time() - entry.stat(follow_symlinks=False).st_mtime < AGE:
                continue
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)
            else:
                os.unlink(entry.path)  # noqa: PTH108


def sync_file(path: Path) -> None:
    """Waits until a file is on the disk."""
    _sync(path, os.O_RDONLY | _FLAGS)


def sync_folder(folder: Path) -> None:
    """Waits until the names in a folder are on the disk."""
    if hasattr(os, "O_DIRECTORY"):
        _sync(folder, os.O_RDONLY | os.O_DIRECTORY)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _spare(path: Path, data: bytes, mode: int | None, disk: Disk) -> Iterator[Path]:
    """Yields a new file of a random name beside `path` that holds `data` durably; it is gone at the end, if it did not
    move.
    """
    held = check(path)
    sweep(path.parent)
    spare = path.with_name(f".holdfast-{secrets.token_hex(8)}.tmp")
    mode = mode if held is None else stat.S_IMODE(held.st_mode) & 0o777
    descriptor = disk.create(spare, 0o666 if mode is None else 0o600)
    try:
        try:
            if mode is not None and hasattr(os, "fchmod"):
                os.fchmod(descriptor, mode)
            disk.write(descriptor, data)
            disk.sync(descriptor)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from error
        finally:
            os.close(descriptor)
        yield spare
    finally:
        disk.remove(spare)


def _read_settled(spare: Path, wait: bool, disk: Disk) -> bytes:
    """Returns the bytes of a file that has left its place, once nobody writes into it any more.

    No path leads to it, so whoever had it open is the last. Raises Conflict if somebody keeps it open.
    """
    if wait and not handles.is_released(spare):
        raise Conflict(
            "an agent opened the session while it was being replaced, and would go on in the old file; stop the agent "
            "first, or use the proxy"
        )
    return disk.read(spare)


def _at(descriptor: int, start: int, size: int) -> bytes:
    os.lseek(descriptor, start, os.SEEK_SET)
    return os.read(descriptor, size)


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):  # also what a cut in the middle of a UTF-8 character raises
        return False
    return True
