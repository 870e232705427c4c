"""Limits on what a store of sessions holds: its size and the age of sessions, and what goes to keep them.

Sessions are dropped by the time of their newest event, the oldest first. Objects that no session names any more are
freed by `Store.collect`, an hour after they were written at the earliest.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from holdfast.errors import BadOption, HoldfastError
from holdfast.session.events import Row, find_referenced_objects, replay_log
from holdfast.storage.store import Store
from holdfast.transcript.speaker import extract_own_words

DAY = 86_400.0
TITLE = 80
"""Characters of a title."""


@dataclass(frozen=True)
class StoreLimits:
    """The most that a store may hold. None sets no limit. Raises BadOption for a limit that lets nothing stay."""

    nbytes: int | None = None
    """Bytes of all sessions, their logs and memories."""
    age: float | None = None
    """Seconds since the newest event of a session."""

    def __post_init__(self) -> None:
        for name, value in (("bytes of a store", self.nbytes), ("age of a session", self.age)):
            if value is not None and not 0 < value < math.inf:
                raise BadOption(f"the {name} must be above 0, got {value}; leave the limit out to keep everything")


@dataclass(frozen=True)
class StoredSession:
    """A session as it stands in a store."""

    name: str
    updated: float
    """The time of its newest event, in seconds since the epoch; 0 if it cannot be read."""
    log_bytes: int
    objects: Mapping[str, int] = field(default_factory=dict)
    """Digest -> bytes of each object that it needs. Forks share objects."""
    title: str = ""
    turns: int = 0
    model: str = ""
    problem: str = ""
    """The reason that it cannot be read; empty if it can."""

    @property
    def nbytes(self) -> int:
        """Bytes of its log and of all its objects."""
        return self.log_bytes + sum(self.objects.values())


@dataclass(frozen=True)
class PruneResult:
    """The outcome of `prune`."""

    dropped: tuple[tuple[StoredSession, str], ...]
    """Sessions with the reason why each went."""
    freed: int
    """Bytes of objects and logs that are gone already; objects of the last hour go with the next call."""
    kept: tuple[StoredSession, ...]


def list_sessions(store: Store) -> list[StoredSession]:
    """Returns all sessions of a store, the newest first; those that cannot be read last."""
    sizes = store.object_sizes()
    sessions = [_read(store, name, size, sizes) for name, size in store.log_sizes().items()]
    return sorted(sessions, key=lambda session: -session.updated)


def choose_evictions(
    sessions: Sequence[StoredSession], limits: StoreLimits, now: float, spared: Collection[str] = ()
) -> list[tuple[StoredSession, str]]:
    """Returns the sessions that go so that the others are within the limits, with the reason for each.

    Sessions that are `spared` stay, and so do those that cannot be read. `now` is in seconds since the epoch.
    """
    going: list[tuple[StoredSession, str]] = []
    left = list(sessions)
    for session in sorted(sessions, key=lambda session: session.updated):
        if session.problem or session.name in spared:
            continue
        reason = ""
        if limits.age is not None and now - session.updated > limits.age:
            reason = f"not used for {(now - session.updated) / DAY:.1f} days, more than {limits.age / DAY:g}"
        elif limits.nbytes is not None and (size := total_bytes(left)) > limits.nbytes:
            reason = f"the store held {size:,} bytes, more than {limits.nbytes:,}, and this was the oldest session"
        if reason:
            going.append((session, reason))
            left.remove(session)
    return going


def total_bytes(sessions: Iterable[StoredSession]) -> int:
    """Returns the bytes of sessions together; objects that several share count once."""
    objects: dict[str, int] = {}
    logs = 0
    for session in sessions:
        logs += session.log_bytes
        objects.update(session.objects)
    return logs + sum(objects.values())


def prune(
    store: Store,
    limits: StoreLimits | None = None,
    *,
    names: Collection[str] = (),
    unreadable: bool = False,
    dry_run: bool = False,
) -> PruneResult:
    """Drops what is beyond the limits, sessions by `names`, and those that cannot be read if `unreadable` is set.

    With `dry_run` nothing is dropped. A server that runs on the store must be stopped first: it keeps its own limits.
    """
    sessions = list_sessions(store)
    if unknown := set(names) - {session.name for session in sessions}:
        raise BadOption(f"there is no session {min(unknown)!r} in {store.url}; `holdfast store` lists those there are")
    going = [(session, "named") for session in sessions if session.name in names]
    going += [(session, session.problem) for session in sessions if unreadable and session.problem]
    rest = [session for session in sessions if session not in [one for one, _ in going]]
    going += choose_evictions(rest, limits or StoreLimits(), time.time())
    gone = {session.name for session, _ in going}
    kept = tuple(session for session in sessions if session.name not in gone)
    if dry_run:
        return PruneResult(tuple(going), 0, kept)
    for session, _ in going:
        store.drop(session.name)
    freed = sum(session.log_bytes for session, _ in going)
    if not any(session.problem for session in kept):  # a log that cannot be read may name any object
        freed += store.collect({digest for session in kept for digest in session.objects})
    return PruneResult(tuple(going), freed, kept)


def last_use(events: Sequence[Row]) -> float:
    """Returns the time of the newest event that is no save, for a server saves all sessions when it stops.

    Raises ValueError for a time that is no finite number.
    """
    used = next((event for event in reversed(events) if event["kind"] != "saved"), events[-1])
    at = float(used.get("at", 0.0))
    if not math.isfinite(at):
        raise ValueError(f"the time of its newest event is {at}")
    return at


def _read(store: Store, name: str, size: int, sizes: Mapping[str, int]) -> StoredSession:
    try:
        events = store.events(name)
        if not events:
            return StoredSession(name, 0.0, size, problem="its log has no sound event")
        updated = last_use(events)
        turns = replay_log(events, name).turns
        title = next((said for turn in turns if (said := extract_own_words(turn).strip())), "")
        title = " ".join(title[: 4 * TITLE].split())[:TITLE]
        objects = {digest: sizes.get(digest, 0) for digest in find_referenced_objects(events)}
        return StoredSession(name, updated, size, objects, title, len(turns), str(events[0].get("name", "")))
    except (HoldfastError, LookupError, ValueError, TypeError, AttributeError) as error:
        return StoredSession(name, 0.0, size, problem=str(error) or type(error).__name__)
