"""The file systems of the store: a folder of this machine, or another file system that fsspec knows."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from datetime import UTC
from pathlib import Path
from threading import Lock
from typing import Any, Protocol
from uuid import uuid4

from holdfast.errors import BadInput, BadOption, Conflict, Failed, HoldfastError
from holdfast.storage.files import DISK, stage, sync_folder

DIGEST = re.compile(r"[0-9a-f]{64}")
SHELF = re.compile(r"[0-9a-f]{2}")  # the folder of the objects that begin so
EXCLUSIVE = {"memory", "s3", "gs", "gcs", "abfs", "az"}
"""Protocols whose backends can refuse to overwrite in one step; to look and then to write would lose events."""
_MEMORY = Lock()  # fsspec's memory looks and then writes


def local(url: str | Path) -> Path | None:
    """Returns the path that `url` has on this machine; None for the URL of another file system."""
    text = str(url)
    for scheme in ("file://", "local://"):
        if text.startswith(scheme):
            return Path(text.removeprefix(scheme))
    return None if isinstance(url, str) and "://" in url else Path(url)


def fetch(url: str) -> bytes | None:
    """Returns the bytes at the URL of another file system, or None if there is nothing. Raises BadOption and Failed."""
    fs, path = _open_url(url)
    with _report_failure("read", url, Exception):
        try:
            return bytes(fs.cat_file(path))
        except FileNotFoundError:
            return None


def send(url: str, data: bytes) -> None:
    """Writes bytes to the URL of another file system. Raises BadOption and Failed."""
    fs, path = _open_url(url)
    with _report_failure("write", url, Exception):
        fs.pipe_file(path, data)


class Place(Protocol):
    """A file system with bytes under keys, which are paths below its root."""

    def make(self, folder: str) -> None:
        """Makes a folder for `create`."""

    def create(self, key: str, data: bytes) -> bool:
        """Writes `data` whole; returns False, and writes nothing, if the key is taken."""

    def keep(self, key: str, data: bytes) -> None:
        """Stores `data`, which alone belongs under this key, and begins its time of grace."""

    def read(self, keys: Sequence[str]) -> list[bytes | None]:
        """Returns the bytes of each key; None for a key that is not there."""

    def exists(self, key: str) -> bool: ...

    def names(self, folder: str) -> list[str]:
        """Returns the names in a folder, in no order; none if there is no such folder."""

    def sizes(self, folder: str) -> dict[str, int]:
        """Returns the bytes of each file below a folder, by its path from there."""

    def drop(self, folder: str) -> None: ...

    def collect(self, keep: set[str], before: float) -> int:
        """Drops the objects not in `keep` that are older than `before`, in seconds of the epoch; returns the bytes
        freed.
        """


class Folder:
    """A folder of this machine, for its owner's eyes only."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def make(self, folder: str) -> None:
        path = self.root / folder
        self._check(path)
        with _report_failure("create", path):
            for step in (*(self.root / parent for parent in reversed(Path(folder).parents)), path):
                if not step.is_dir():
                    step.mkdir(mode=0o700, parents=step == self.root, exist_ok=True)
                    sync_folder(step.parent)

    def create(self, key: str, data: bytes) -> bool:
        path = self.root / key
        self._check(path.parent)
        with _report_failure("write", path), self._scratch(data) as scratch:
            try:
                DISK.link(scratch, path)
                sync_folder(path.parent)
            except FileExistsError:
                return False
            except FileNotFoundError as error:
                raise Conflict(f"{path.parent} was dropped meanwhile; nothing is written there") from error
        return True

    def keep(self, key: str, data: bytes) -> None:
        path = self.root / key
        self.make(str(Path(key).parent))
        with _report_failure("write", path):
            if not _renew(path, data):
                with self._scratch(data) as scratch:
                    DISK.move(scratch, path)
            sync_folder(path.parent)

    def read(self, keys: Sequence[str]) -> list[bytes | None]:
        return [_bytes(self.root / key) for key in keys]

    def exists(self, key: str) -> bool:
        with _report_failure("read", self.root / key):
            return (self.root / key).exists()

    def names(self, folder: str) -> list[str]:
        path = self.root / folder
        with _report_failure("read", path):
            try:
                return os.listdir(path)  # noqa: PTH208  (names, not paths)
            except FileNotFoundError:
                return []

    def sizes(self, folder: str) -> dict[str, int]:
        top, sizes = self.root / folder, dict[str, int]()
        with _report_failure("read", top):
            for where, _, names in os.walk(top):
                for path in (Path(where) / name for name in names):
                    with suppress(FileNotFoundError):  # it was dropped meanwhile
                        sizes[path.relative_to(top).as_posix()] = path.lstat().st_size
        return sizes

    def drop(self, folder: str) -> None:
        if self.exists(folder):
            self.make("tmp")
            path, aside = self.root / folder, self._aside()
            with _report_failure("drop", path), suppress(FileNotFoundError):  # another one dropped it
                DISK.move(path, aside)
                sync_folder(path.parent)
            shutil.rmtree(aside, ignore_errors=True)  # the next `collect` takes what is left

    def collect(self, keep: set[str], before: float) -> int:
        freed = 0
        for folder in filter(SHELF.fullmatch, self.names("objects")):
            for name in self.names(f"objects/{folder}"):
                if DIGEST.fullmatch(name) and name not in keep:
                    freed += self._discard(self.root / "objects" / folder / name, before)
        for name in self.names("tmp"):
            freed += _remove(self.root / "tmp" / name, before)
        return freed

    def _check(self, folder: Path) -> None:
        """Raises BadInput if a folder below the root is a link, which would lead the store's writes elsewhere."""
        inside = (self.root / part for part in (folder.relative_to(self.root), *folder.relative_to(self.root).parents))
        for step in inside:
            if step != self.root and step.is_symlink():
                raise BadInput(f"{step} is a link, and a store writes through none; remove the link, or move the store")

    def _discard(self, path: Path, before: float) -> int:
        """Sets an object aside before it goes: a writer that finds it meanwhile renews it, or finds nothing."""
        self.make("tmp")
        with _report_failure("drop", path), suppress(FileNotFoundError):  # another one collects, too
            if path.stat().st_mtime < before:
                aside = self._aside()
                DISK.move(path, aside)
                if aside.stat().st_mtime >= before:
                    DISK.move(aside, path)
                return _remove(aside, before)
        return 0

    def _aside(self) -> Path:
        return self.root / "tmp" / uuid4().hex

    @contextmanager
    def _scratch(self, data: bytes) -> Iterator[Path]:
        """Yields a file that holds `data` durably under a name of no meaning."""
        self.make("tmp")
        path = self._aside()
        try:
            stage(path, data)
            yield path
        finally:
            path.unlink(missing_ok=True)


class Remote:
    """Any other file system that fsspec knows and that creates exclusively."""

    def __init__(self, url: str, grace: float) -> None:
        self.fs, self.root = _open_url(url)
        self.url, self.grace = url, grace
        names = {self.fs.protocol} if isinstance(self.fs.protocol, str) else set(self.fs.protocol)
        if names.isdisjoint(EXCLUSIVE):
            raise BadOption(f"{url} cannot refuse to overwrite; a store is a folder, or at one of {sorted(EXCLUSIVE)}")
        if set(self.root) & set("*?["):
            raise BadOption(f"{url} reads as a pattern; give a store a name without * ? and [")
        self._lock = _MEMORY if "memory" in names else nullcontext()
        self._proven = "memory" in names

    def make(self, folder: str) -> None:
        """Does nothing: such a folder is there as soon as something is in it."""

    def create(self, key: str, data: bytes) -> bool:
        self._prove()
        try:
            with self._lock:
                self.fs.pipe_file(self._path(key), data, mode="create")
            return True
        except Exception as error:  # backends differ in what they raise where a key is taken
            found = self.read([key])[0]
            if found is None:
                raise Failed(f"cannot write {self.url}, {key}: {error}") from error
            return found == data  # a backend that repeats a request is refused by its own first one

    def keep(self, key: str, data: bytes) -> None:
        path = self._path(key)
        with _report_failure("write", f"{self.url}, {key}", Exception):
            with suppress(FileNotFoundError):
                if self.fs.info(path)["size"] == len(data) and self._age(path) < self.grace / 2:
                    return
            self.fs.pipe_file(path, data)

    def read(self, keys: Sequence[str]) -> list[bytes | None]:
        paths = [self._path(key) for key in keys]
        with _report_failure("read", self.url, Exception):
            found = self.fs.cat(paths, on_error="return") if paths else {}
            for data in found.values():
                if isinstance(data, Exception) and not isinstance(data, FileNotFoundError):
                    raise data
        return [None if isinstance(data := found[path], Exception) else bytes(data) for path in paths]

    def exists(self, key: str) -> bool:
        with _report_failure("read", f"{self.url}, {key}", Exception):
            return bool(self.fs.exists(self._path(key)))

    def names(self, folder: str) -> list[str]:
        with _report_failure("read", f"{self.url}, {folder}", Exception):
            try:
                return [name.rstrip("/").rpartition("/")[2] for name in self.fs.ls(self._path(folder), detail=False)]
            except FileNotFoundError:
                return []

    def sizes(self, folder: str) -> dict[str, int]:
        top = self._path(folder)
        with _report_failure("read", f"{self.url}, {folder}", Exception):
            try:
                found = self.fs.find(top, detail=True)
            except FileNotFoundError:
                return {}
        return {path.partition(f"{top.strip('/')}/")[2]: int(info["size"]) for path, info in found.items()}

    def drop(self, folder: str) -> None:
        self._remove(f"{folder}/{name}" for name in self.names(folder))

    def collect(self, keep: set[str], before: float) -> int:
        freed, old = 0, []
        with _report_failure("read", f"{self.url}, objects", Exception):
            for path, info in self.fs.find(self._path("objects"), detail=True).items():
                name = path.rpartition("/")[2]
                if DIGEST.fullmatch(name) and name not in keep and time.time() - self._age(path) < before:
                    freed += info["size"]
                    old.append(f"objects/{name[:2]}/{name}")
        self._remove(old)
        return freed

    def _path(self, key: str) -> str:
        return f"{self.root.rstrip('/')}/{key}"

    def _age(self, path: str) -> float:
        modified = self.fs.modified(path)
        return time.time() - float((modified if modified.tzinfo else modified.replace(tzinfo=UTC)).timestamp())

    def _remove(self, keys: Iterable[str]) -> None:
        if paths := [self._path(key) for key in keys]:
            with _report_failure("drop", self.url, Exception), suppress(FileNotFoundError):
                self.fs.rm(paths)

    def _prove(self) -> None:
        """Servers of the S3 kind may ignore the condition that nothing is overwritten: ask once, then rely on it."""
        if self._proven:
            return
        probe = f"tmp/{uuid4().hex}"
        with _report_failure("write", f"{self.url}, {probe}", Exception):
            self.fs.pipe_file(self._path(probe), b"first", mode="create")
            with suppress(Exception):
                self.fs.pipe_file(self._path(probe), b"second", mode="create")
        self._proven = self.read([probe])[0] == b"first"
        self._remove([probe])
        if not self._proven:
            raise BadOption(f"{self.url} overwrites where it was told not to, so that two writers would lose events")


def _open_url(url: str) -> tuple[Any, str]:
    from fsspec.core import url_to_fs

    try:
        fs, path = url_to_fs(url, use_listings_cache=False)
    except ImportError as error:
        raise BadOption(f"{url} needs a library that is not installed: {error}; install it beside holdfast") from error
    except Exception as error:  # unknown protocols, and settings that a backend refuses
        raise BadOption(f"{url} cannot be opened: {error}; give a folder, or a URL that fsspec knows") from error
    return fs, str(path)


def _bytes(path: Path) -> bytes | None:
    with _report_failure("read", path):
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return None


def _renew(path: Path, data: bytes) -> bool:
    """Sets the file's time to now; returns False if it was not there or is damaged."""
    with suppress(FileNotFoundError):
        if path.read_bytes() == data:
            os.utime(path)
            return True
    return False


def _remove(path: Path, before: float) -> int:
    """Removes a file or folder of tmp if it is older than `before`; returns the bytes that were in it."""
    with suppress(FileNotFoundError):  # its writer was faster
        if path.stat().st_mtime < before:
            if path.is_dir():
                size = sum(file.stat().st_size for file in path.iterdir())
                shutil.rmtree(path, ignore_errors=True)
            else:
                size = path.stat().st_size
                path.unlink()
            return size
    return 0


@contextmanager
def _report_failure(verb: str, where: object, kind: type[Exception] = OSError) -> Iterator[None]:
    """Turns errors of a file system into Failed, with the place."""
    try:
        yield
    except HoldfastError:
        raise
    except kind as error:
        reason = (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
        raise Failed(f"cannot {verb} {where}: {reason}; nothing is left half written, try again when it can") from error
