"""Objects by their content and logs of events, on any fsspec URL. Safe under concurrent writers.

    objects/ab/abcdef…            bytes, under the sha256 of themselves
    logs/NAME/00000000.json       one event each: a checksum, then one line of JSON
    tmp/                          a local folder only: what is being written or dropped

An event and an object are there whole or not at all, and last once the call that wrote them has returned.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Collection
from itertools import chain, count
from pathlib import Path
from typing import Any
from uuid import uuid4

from holdfast.errors import BadContext, BadInput, Conflict, Missing
from holdfast.storage.backends import DIGEST, Folder, Place, Remote, local

GRACE = 3600.0
"""Seconds that an object may stay unnamed: between `put` and the event that names it."""
DEPTH = 200  # of an event: the reader may stand deeper in its own stack than the writer did
LOG = re.compile(r"[A-Za-z0-9_-]{1,64}")
EVENT = re.compile(r"(\d{8})(?:\.([1-9]\d*))?\.json")


class Store:
    """Objects and logs under `url`: a local folder, or any of memory://, s3://, gs:// and abfs://.

    `grace` is the time in seconds that an object may stay unnamed. Every call may raise Failed, with the path, where
    the place cannot be read or written. Raises BadOption for a URL that cannot hold a store.
    """

    def __init__(self, url: str | Path, grace: float = GRACE) -> None:
        self.url, self.grace = str(url), grace
        folder = local(url)
        self._place: Place = Remote(self.url, grace) if folder is None else Folder(folder.expanduser().absolute())

    def put(self, data: bytes) -> str:
        """Stores `data` and returns its sha256; its time of grace begins anew."""
        digest = hashlib.sha256(data).hexdigest()
        self._place.keep(_object(digest), data)
        return digest

    def get(self, digest: str) -> bytes:
        """Raises Missing when there is no such object, BadContext when it is damaged."""
        data = self._place.read([_object(digest)])[0]
        if data is None:
            raise Missing(f"{self.url}: there is no object {digest}; it was dropped, or belongs to another store")
        if hashlib.sha256(data).hexdigest() != digest:
            raise BadContext(f"{self.url}: object {digest} is damaged; put it again, or restore it from a copy")
        return data

    def has(self, digest: str) -> bool:
        """Returns True if there is such an object, sound or not."""
        return self._place.exists(_object(digest))

    def collect(self, keep: Collection[str]) -> int:
        """Drops every object that is not in `keep` and older than the grace, and what crashes left; returns the bytes
        freed.
        """
        return self._place.collect(set(keep), time.time() - self.grace)

    def append(self, log: str, seq: int, event: dict[str, Any]) -> None:
        """Writes `event` as number `seq`, counted from 0; tuples come back as lists.

        Raises Conflict if that number is taken or does not follow, BadInput for what is not JSON.
        """
        folder, data = _log(log), _encode_event(seq, event)
        if seq == 0:
            self._place.make(folder)
        elif not self._place.exists(_event(folder, seq - 1)):
            raise Conflict(f"{self.url}: log {log} has no event {seq - 1} for event {seq} to follow; read it again")
        for attempt in count():  # a torn event keeps its name, so that no writer removes what another has just written
            key = _event(folder, seq, attempt)
            if self._place.create(key, data):
                return
            found = self._place.read([key])[0]
            if found is None or _decode_event(found, seq) is not None:
                raise Conflict(f"{self.url}: somebody else wrote event {seq} of log {log}; read it again")

    def events(self, log: str) -> list[dict[str, Any]]:
        """Returns all events in order; none if there is no such log.

        A damaged event at the end was never acknowledged and is passed over. Raises BadContext if one is missing or
        damaged before the end, and Missing if the log is dropped meanwhile.
        """
        folder = _log(log)
        names = self._names(folder)
        if {seq for seq, _ in names} != set(range(names[-1][0] + 1 if names else 0)):
            # a listing may miss what was written while it ran, though it shows what was written after that
            names = [name for name in self._names(folder) if name <= names[-1]]
        sound: dict[int, dict[str, Any]] = {}
        for (seq, _), data in zip(names, self._place.read([_event(folder, *name) for name in names]), strict=True):
            if data is None:
                raise Missing(f"{self.url}: log {log} was dropped while it was read")
            if (event := _decode_event(data, seq)) is not None:
                sound.setdefault(seq, event)
        for seq in range(max(sound, default=-1)):
            if seq not in sound:
                state = "damaged" if seq in dict(names) else "missing"
                where = _event(folder, seq)
                raise BadContext(f"{self.url}: {where} is {state}; restore it from a copy, or drop log {log}")
        return [sound[seq] for seq in sorted(sound)]

    def first_event(self, log: str) -> dict[str, Any] | None:
        """Returns the first event of a log, whatever became of the others; None if there is none that is sound."""
        folder = _log(log)
        names = [name for name in self._names(folder) if name[0] == 0]
        read = self._place.read([_event(folder, *name) for name in names])
        return next(
            (event for data in read if data is not None and (event := _decode_event(data, 0)) is not None), None
        )

    def log_sizes(self) -> dict[str, int]:
        """Returns the bytes of each log, by name."""
        sizes = dict.fromkeys(self.logs(), 0)
        for path, size in self._place.sizes("logs").items():
            name = path.split("/")[0]
            if name in sizes:
                sizes[name] += size
        return sizes

    def object_sizes(self) -> dict[str, int]:
        """Returns the bytes of each object, by digest."""
        found = ((path.rpartition("/")[2], size) for path, size in self._place.sizes("objects").items())
        return {name: size for name, size in found if DIGEST.fullmatch(name)}

    def logs(self) -> list[str]:
        """Returns the names of all logs; one whose first writer was killed has no events."""
        return sorted(name for name in self._place.names("logs") if LOG.fullmatch(name))

    def drop(self, log: str) -> None:
        """Removes a log, or does nothing if there is none. Its objects go with the next `collect`.

        Atomic on a local folder; elsewhere a crash leaves events missing, which is refused, until it is dropped again.
        """
        self._place.drop(_log(log))

    def _names(self, folder: str) -> list[tuple[int, int]]:
        found = map(EVENT.fullmatch, self._place.names(folder))
        return sorted((int(match[1]), int(match[2] or 0)) for match in found if match)


def _object(digest: str) -> str:
    if not DIGEST.fullmatch(digest):
        raise BadInput(f"an object is named by 64 hexadecimal digits, got {digest[:80]!r}")
    return f"objects/{digest[:2]}/{digest}"


def _log(name: str) -> str:
    if not LOG.fullmatch(name):
        raise BadInput(f"a log is named by 1 to 64 of A-Z, a-z, 0-9, _ and -, got {name[:80]!r}")
    return f"logs/{name}"


def _event(folder: str, seq: int, attempt: int = 0) -> str:
    return f"{folder}/{seq:08d}{f'.{attempt}' if attempt else ''}.json"


def _encode_event(seq: int, event: dict[str, Any]) -> bytes:
    if not 0 <= seq < 10**8:
        raise BadInput(f"an event is numbered from 0 to 99999999, got {seq}")
    whole = {"event": event, "seq": seq, "writer": uuid4().hex}
    try:
        body = json.dumps(whole, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise BadInput(f"event {seq} cannot be written as JSON: {error}") from error
    if _deep(event):
        raise BadInput(f"event {seq} is nested deeper than {DEPTH} levels; hold what is deeper as text")
    return b"%s\n%s\n" % (hashlib.sha256(body).hexdigest().encode(), body)


def _deep(value: object) -> bool:
    level = [value]
    for _ in range(DEPTH):
        held = [v.values() if isinstance(v, dict) else v for v in level if isinstance(v, (dict, list, tuple))]
        level = list(chain.from_iterable(held))
    return bool(level)


def _decode_event(data: bytes, seq: int) -> dict[str, Any] | None:
    """Returns the event that `data` holds; None if it is damaged, or another one's."""
    head, _, body = data.partition(b"\n")
    body, end = body[:-1], body[-1:]
    if end != b"\n" or head != hashlib.sha256(body).hexdigest().encode():
        return None
    try:
        whole = json.loads(body)
        return dict(whole["event"]) if whole["seq"] == seq else None
    except (ValueError, TypeError, KeyError, RecursionError):  # sealed, but not by `_encode_event`
        return None
