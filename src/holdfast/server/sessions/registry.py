"""The sessions of a server: the one that a request continues, those in memory, and who works on one now.

A request takes the session that has most of its turns in common and goes on there, or forks it where the two part. One
request at a time works on a session; a second one waits, and then continues or forks the session as it is then. While
a session is being answered nothing can continue it, so that a second request forks it at once.

A long system prompt is a session of its own, a *head*, that is only ever forked: it is read once for each key.
"""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from threading import Lock
from typing import Any
from uuid import uuid4

from holdfast.compaction.plan import Plan
from holdfast.engine.local import LocalEngine
from holdfast.errors import BadContext, BadInput, Busy, HoldfastError, Missing, TooLarge
from holdfast.model.load import full_bytes
from holdfast.server.protocol import GenerateRequest
from holdfast.server.sessions.entry import SessionEntry
from holdfast.server.sessions.lru import MemoryBudget
from holdfast.server.sessions.prefix_index import PrefixIndex, seed
from holdfast.session.events import SessionCompacted, SessionSaved, TurnsAppended, replay_log
from holdfast.session.retention import last_use
from holdfast.session.session import Session
from holdfast.session.trigger import CircuitBreaker
from holdfast.storage.store import Store
from holdfast.transcript.turn import Turn

log = logging.getLogger("holdfast.server")
RESERVE = 256  # tokens of an answer for which memory is taken before it is known how long it gets
WAIT = 0.05  # seconds between looks at a session that is to be spilled and that somebody else has
ODD = (LookupError, ValueError, TypeError, AttributeError)
"""Errors of reading a log that is sound and yet not one that Holdfast writes."""


class SessionRegistry:
    """All sessions of a server. Any thread may call."""

    def __init__(
        self,
        engine: LocalEngine,
        plan: Plan,
        store: Store,
        budget: int,
        breaker: CircuitBreaker,
        volatile: Sequence[str] = (),
    ) -> None:
        """Takes `budget`: bytes of KV memory for all sessions together, and the patterns of `PrefixIndex`."""
        self.engine, self.plan, self.store, self.breaker = engine, plan, store, breaker
        self.memory, self.index = MemoryBudget(budget), PrefixIndex(volatile)
        self.unreadable: dict[str, str] = {}
        """Sessions of the store that cannot be read, and the reason."""
        self.evicted: dict[str, tuple[str, str]] = {}
        """Sessions that were dropped to keep the limits of the store: their keys, and the reasons."""
        self._lock, self._one_head = Lock(), Lock()
        self._entries: dict[str, SessionEntry] = {}

    def discover(self) -> None:
        """Registers every session of the store, without reading it into memory."""
        for name in self.store.logs():
            try:
                if events := self.store.events(name):  # none where its first writer was killed
                    self._register(name, events)
            except (HoldfastError, *ODD) as error:  # one damaged log must not keep the others from being served
                self.unreadable[name] = str(error)

    def unreadable_of(self, key: str) -> dict[str, str]:
        """Returns the sessions of a key that cannot be read, and the reasons. A log whose first event is damaged has no
        key: only `holdfast store` reaches it."""
        return {name: reason for name, reason in self.unreadable.items() if self._owner(name) == key}

    def _owner(self, name: str) -> str | None:
        try:
            first = self.store.first_event(name)
        except HoldfastError:
            return None
        return None if first is None else str(first.get("key", ""))

    def _register(self, name: str, events: Sequence[Mapping[str, Any]]) -> SessionEntry:
        first, turns = events[0], replay_turns(events)
        start = seed(first.get("key", ""), first.get("model", ""), first.get("tools", ()))
        links = self.index.links(turns, start)
        entry = SessionEntry(name, first.get("key", ""), start, links, self.breaker, events=_drop_token_ids(events))
        entry.used, entry.head = last_use(events), bool(first.get("head")) and not first.get("parent")
        with self._lock:
            self._entries[name] = entry
        if first.get("model") == self.engine.model.digest:
            self.index.add(name, start, links)
        return entry

    def list_entries(self, key: str | None = None) -> list[SessionEntry]:
        """Returns the sessions of one key, or of all; the newest first."""
        with self._lock:
            entries = [entry for entry in self._entries.values() if key in (None, entry.key)]
        return sorted(entries, key=lambda entry: -entry.used)

    def get(self, name: str, key: str) -> SessionEntry:
        """Returns a session. Raises Missing if the key has none of this name, BadContext if its log is damaged."""
        with self._lock:
            entry = self._entries.get(name)
        if name in self.unreadable:
            raise BadContext(f"session {name} cannot be read: {self.unreadable[name]}")
        owner, reason = self.evicted.get(name, (None, ""))
        if entry is None and owner == key:
            raise Missing(f"session {name!r} was dropped ({reason}); send its history again")
        if entry is None or entry.key != key or entry.gone:
            raise Missing(f"there is no session {name!r}; GET /holdfast/sessions lists those that there are")
        return entry

    @contextmanager
    def enter(self, name: str, key: str) -> Iterator[SessionEntry]:
        """Yields a session in memory that nobody else works on. Raises Missing, TooLarge and Busy."""
        entry = self.get(name, key)
        with self._acquire(entry):
            yield entry

    @contextmanager
    def enter_matching(self, request: GenerateRequest) -> Iterator[tuple[SessionEntry, int]]:
        """Yields the session that a request continues, and how many of its turns that holds already.

        It is a new one if none has a turn in common. If the work on it is refused, one that this request brought about
        is gone again. Raises TooLarge and Busy.
        """
        start = seed(request.key, self.engine.model.digest, request.tools)
        links = self.index.links(request.turns, start)
        own, forked_at = "", 0
        while True:
            name, turns = (own, forked_at) if own else self.index.longest_prefix(links) or ("", 0)
            with ExitStack() as stack:
                try:
                    entry = self.get(name, request.key) if turns else self._create(request, start)
                    if not own and (session := self._answering(entry, links[:turns])):
                        own, forked_at = self._fork(entry, session, request.turns[:turns]).name, turns
                        continue
                    stack.enter_context(self._acquire(entry))
                    if entry.links[:turns] != links[:turns]:
                        own = ""
                        continue  # it went another way while we waited
                    if len(entry.links) > turns or entry.head:
                        own, forked_at = self._fork(entry, entry.session, request.turns[:turns]).name, turns
                        continue
                except (Missing, BadContext):  # dropped meanwhile, or damaged: the client has sent all that it held
                    self.index.remove(name)
                    own = ""
                    continue
                try:
                    yield entry, turns
                except (BadInput, Busy):
                    if not turns or entry.name == own:
                        entry.links = []
                    raise
                finally:
                    if not entry.links:  # nothing could be read, or nothing may stay
                        with suppress(HoldfastError):
                            self._drop(entry)
                return

    def _answering(self, entry: SessionEntry, links: Sequence[bytes]) -> Session | None:
        """Returns a session that begins with these links and is being answered: it can be forked, not continued."""
        answered = bool(links) and "answering" in entry.activities and entry.links[: len(links)] == links
        return entry.resident if answered else None

    @contextmanager
    def enter_head(self, request: GenerateRequest, turns: int) -> Iterator[SessionEntry | None]:
        """Yields a new head for the first `turns` turns of a request, which the caller reads; None if there is one, or
        if a session holds more of the request. Whoever needs it meanwhile waits. Raises TooLarge and Busy.
        """
        start = seed(request.key, self.engine.model.digest, request.tools)
        links = self.index.links(request.turns, start)
        with ExitStack() as stack:
            with self._one_head:
                name, common = self.index.longest_prefix(links) or ("", 0)
                with self._lock:
                    known = self._entries.get(name)
                entry = None
                if common < turns or (common == turns and not (known and known.head)):
                    entry = self._create(request, start, head=True)
                    stack.enter_context(self._acquire(entry))
                    entry.links = links[:turns]
                    self.index.add(entry.name, start, entry.links, request.turns[:turns])
            try:
                yield entry
            except BaseException:
                if entry is not None:
                    with suppress(HoldfastError):
                        self._drop(entry)
                raise

    def update_turns(self, entry: SessionEntry, turns: Sequence[Turn]) -> None:
        """Records that a session has grown, or was taken back: from now on requests find it by these turns."""
        entry.links = self.index.links(turns, entry.seed)
        entry.used = time.time()
        self.index.add(entry.name, entry.seed, entry.links, turns)

    def reserve(self, entry: SessionEntry, tokens: int) -> None:
        """Takes memory for so many more tokens of a session. Raises TooLarge and Busy."""
        footprint = entry.session.cache.footprint if entry.resident else 0
        self._spill(self.memory.grow(entry.name, footprint + full_bytes(self.engine.model, tokens + RESERVE)))

    def fork(self, entry: SessionEntry, turns: int | None = None) -> SessionEntry:
        """Makes a second session with the first turns of one that is entered."""
        turns = len(entry.links) if turns is None else turns
        if not 0 <= turns <= len(entry.links):
            raise BadInput(f"turn {turns} cannot be forked at: the session has {len(entry.links)}")
        return self._fork(entry, entry.session, entry.session.turns[:turns])

    def drop(self, name: str, key: str) -> None:
        """Forgets a session and its log, also one that cannot be read. Its objects go when the store collects."""
        if name in self.unreadable_of(key):
            self.store.drop(name)
            del self.unreadable[name]
            return
        entry = self.get(name, key)
        with entry.lock:
            if entry.gone:
                raise Missing(f"session {name!r} was dropped meanwhile")
            self._drop(entry)
            self.memory.drop(name)

    def register(self, name: str) -> SessionEntry:
        """Registers a session that has just been written to the store."""
        return self._register(name, self.store.events(name))

    def reject(self, name: str) -> None:
        """Drops a registered session that does not open, in the store too."""
        with suppress(HoldfastError):
            self.store.drop(name)
        with self._lock:
            entry = self._entries.get(name)
        if entry is not None:
            with entry.lock:
                self._forget(entry)
                self.memory.drop(name)

    def save_all(self) -> None:
        """Stores the memory of every session, so that the next start reads nothing again."""
        for entry in self.list_entries():
            with entry.lock:
                self._save(entry)

    def _create(self, request: GenerateRequest, start: bytes, head: bool = False) -> SessionEntry:
        name = uuid4().hex
        about = {"key": request.key, **({"head": True} if head else {})}
        session = Session(self.engine, self.plan, tools=request.tools, store=self.store, name=name, about=about)
        entry = SessionEntry(name, request.key, start, [], self.breaker, session, head=head)
        with self._lock:
            self._entries[name] = entry
        return entry

    def _fork(self, entry: SessionEntry, session: Session, given: Sequence[Turn]) -> SessionEntry:
        """Makes a second session that begins with the turns `given`, as `session` of this entry does."""
        name, turns, entry.used = uuid4().hex, len(given), time.time()
        try:
            twin_session = copy.copy(session).fork(name, turns)  # of values: it may be answered meanwhile
        except Exception:
            with suppress(HoldfastError):
                self.store.drop(name)
            raise
        twin = SessionEntry(name, entry.key, entry.seed, entry.links[:turns], self.breaker, twin_session)
        with self._lock:
            self._entries[name] = twin
        try:
            self._spill(self.memory.admit(name, self._size(twin)))
            self.memory.release(name)
        except (Busy, TooLarge):
            self._unload(twin)
        self.index.add(name, twin.seed, twin.links, given)
        return twin

    def _drop(self, entry: SessionEntry) -> None:
        """Forgets a session whose lock is held, here and in the store."""
        self.store.drop(entry.name)
        self._forget(entry)

    def _forget(self, entry: SessionEntry) -> None:
        self.index.remove(entry.name)
        entry.gone, entry.resident = True, None
        with self._lock:
            self._entries.pop(entry.name, None)

    @contextmanager
    def _acquire(self, entry: SessionEntry) -> Iterator[SessionEntry]:
        """Yields a session, in memory and locked. Raises Missing if it was dropped, BadContext if it is damaged."""
        with self._lock:
            entry.busy += 1
        try:
            with entry.lock:
                if entry.gone:
                    raise Missing(f"session {entry.name!r} was dropped meanwhile")
                self._spill(self.memory.admit(entry.name, self._size(entry)))
                try:
                    self._load(entry)
                    yield entry
                except Exception as error:
                    if not isinstance(error, BadInput | Busy):
                        self._reconcile(entry)
                    raise
                finally:
                    self._release(entry)
        finally:
            with self._lock:
                entry.busy -= 1

    def _reconcile(self, entry: SessionEntry) -> None:
        """Takes over the log after a failure, if it differs from memory.

        A write may have come through that seemed to fail, or another server may have written.
        """
        session, events = entry.resident, None
        if session is None:
            return
        with suppress(HoldfastError):
            events = self.store.events(entry.name)
        if events == []:
            self._forget(entry)
        elif events is None or len(events) != len(session.events):
            entry.events, entry.resident = _drop_token_ids(events or session.events), None
            self.update_turns(entry, replay_turns(entry.events))

    def _size(self, entry: SessionEntry) -> int:
        if entry.resident:
            return max(1, entry.resident.cache.footprint)
        sizes = [event["told"]["bytes"] for event in entry.events if "bytes" in event.get("told", {})]
        return max(1, int(sizes[-1])) if sizes else 1

    def _load(self, entry: SessionEntry) -> None:
        if entry.resident is None:
            entry.resident = Session.resume(entry.name, self.engine, self.store, self.plan)

    def _release(self, entry: SessionEntry) -> None:
        """Ends the use of a session, which may be spilled again, and books its bytes as they are now.

        One that took more than it asked for, and has no room now, is spilled itself.
        """
        fits = entry.resident is not None
        try:
            if fits:
                self._spill(self.memory.grow(entry.name, self._size(entry)))
        except (Busy, TooLarge):
            fits = False
        self.memory.release(entry.name)
        if not fits:
            self.memory.drop(entry.name)
            self._unload(entry)

    def _spill(self, names: Sequence[str]) -> None:
        """Brings sessions to disk. Memory has them off its books already; one that is on them again is in use."""
        for name in names:
            with self._lock:
                entry = self._entries.get(name)
            while entry is not None and name not in self.memory.resident:
                if entry.lock.acquire(timeout=WAIT):  # who has it is about to be on the books, or to leave
                    try:
                        if name not in self.memory.resident:
                            self._unload(entry)
                    finally:
                        entry.lock.release()
                    break

    def _unload(self, entry: SessionEntry) -> None:
        """Takes a locked session out of memory. If it cannot be saved, it is read again from its log."""
        self._save(entry)
        if entry.resident:
            entry.events, entry.resident = _drop_token_ids(entry.resident.events), None
            self.index.drop_turns(entry.name)

    def _save(self, entry: SessionEntry) -> None:
        """Saves a session if anything was read since the last time. What cannot be saved is in the log all the same."""
        session = entry.resident
        stored = (SessionSaved.kind, SessionCompacted.kind)
        if session is None or not session.turns or session.events[-1]["kind"] in stored:
            return
        try:
            session.save()
        except Exception as error:
            log.warning("session %s is not saved, and will be read again: %s", entry.name, error)
            self._reconcile(entry)


def _drop_token_ids(events: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Returns events without their token ids, which a session on disk does not need."""
    return [
        {name: value for name, value in event.items() if name != "blocks" or event["kind"] != TurnsAppended.kind}
        for event in events
    ]


def replay_turns(events: Sequence[Mapping[str, Any]]) -> list[Turn]:
    """Returns the turns that stand after all events of a log."""
    return list(replay_log(events, "").turns)
