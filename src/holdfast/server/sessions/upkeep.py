"""The upkeep of a server's store: sessions beyond its limits go, and the objects that no session needs any more."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import replace

from holdfast.errors import Busy, Missing
from holdfast.server.sessions.entry import SessionEntry
from holdfast.server.sessions.registry import SessionRegistry
from holdfast.session.events import find_referenced_objects
from holdfast.session.retention import StoreLimits, choose_evictions, list_sessions

EVICTED = 1_000  # evicted sessions whose reasons are remembered


def evict(registry: SessionRegistry, limits: StoreLimits) -> list[tuple[SessionEntry, str]]:
    """Drops the sessions that are beyond the limits of the store, unless somebody works on them.

    Returns those that went, with the reasons.
    """
    entries = {entry.name: entry for entry in registry.list_entries()}
    stored = [session for session in list_sessions(registry.store) if session.name in entries]
    stored = [replace(session, updated=entries[session.name].used) for session in stored]
    spared = {name for name, entry in entries.items() if entry.busy}
    gone: list[tuple[SessionEntry, str]] = []
    for session, reason in choose_evictions(stored, limits, time.time(), spared):
        entry = entries[session.name]
        with suppress(Missing, Busy):  # another one was faster
            registry.drop(entry.name, entry.key)
            registry.evicted[entry.name] = entry.key, reason
            gone.append((entry, reason))
    while len(registry.evicted) > EVICTED:
        del registry.evicted[next(iter(registry.evicted))]
    return gone


def collect_garbage(registry: SessionRegistry) -> int:
    """Drops the objects that no session needs any more; returns the bytes freed.

    Other servers may share the store, so every log is read; where one cannot be, nothing is dropped.
    """
    if registry.unreadable:
        return 0
    store, needed, seen = registry.store, set[str](), set[str]()
    while new := set(store.logs()) - seen:  # a fork may come while its origin is read, and outlive it
        needed = needed.union(*(find_referenced_objects(store.events(name)) for name in new))
        seen |= new
    return store.collect(needed)
