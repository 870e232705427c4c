"""Where sessions are: which one a request continues, which are in memory, and who works on one now.

A request takes the session that has most of its turns in common and goes on there, or forks it where the two part. One
request at a time works on a session; a second one waits, and then continues or forks what it finds.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from threading import Lock, RLock
from typing import Any
from uuid import uuid4

from holdfast.compaction.compact import full_bytes
from holdfast.compaction.plan import Plan
from holdfast.engine.local import LocalEngine
from holdfast.errors import BadContext, BadInput, Busy, HoldfastError, Missing, TooLarge
from holdfast.server.protocol import Ask
from holdfast.server.sessions.lru import Budgeted
from holdfast.server.sessions.prefix_index import Index, seed
from holdfast.server.sessions.step_scheduler import Turnstile
from holdfast.session.events import named, turn_of
from holdfast.session.session import Session
from holdfast.session.trigger import CircuitBreaker
from holdfast.storage.store import Store
from holdfast.transcript.turn import Turn

log = logging.getLogger("holdfast.server")
RESERVE = 256  # tokens of an answer for which memory is taken before it is known how long it gets
WAIT = 0.05  # seconds between looks at a session that is to be spilled and that somebody else has
ODD = (LookupError, ValueError, TypeError, AttributeError)
"""What reading a log raises that is sound and yet not one that Holdfast writes."""


@dataclass
class Place:
    """One session, in memory or on disk."""

    name: str
    key: str
    seed: bytes
    links: list[bytes]
    breaker: CircuitBreaker
    session: Session | None = None
    events: list[Mapping[str, Any]] = field(default_factory=list)
    """Of a session that is not in memory; while it is, they may be behind."""
    lock: RLock = field(default_factory=RLock)
    busy: int = 0
    """Requests that hold it or wait for it."""
    marked: bool = False
    used: float = field(default_factory=time.time)
    gone: bool = False

    @property
    def held(self) -> Session:
        assert self.session is not None, "a place is entered before its session is used"
        return self.session


class Places:
    """All sessions of a server. Any thread may call."""

    def __init__(self, engine: LocalEngine, plan: Plan, store: Store, budget: int, breaker: CircuitBreaker) -> None:
        """`budget`: bytes of KV memory for all sessions together."""
        self.engine, self.plan, self.store, self.breaker = engine, plan, store, breaker
        self.memory, self.index, self.model = Budgeted(budget), Index(), Turnstile()
        self.unreadable: dict[str, str] = {}
        """Sessions of the store that could not be taken up, and why."""
        self._lock = Lock()
        self._places: dict[str, Place] = {}

    def find(self) -> None:
        """Take note of every session of the store, without reading it into memory."""
        for name in self.store.logs():
            try:
                if events := self.store.events(name):  # none where its first writer was killed
                    self._note(name, events)
            except (HoldfastError, *ODD) as error:  # one damaged log must not keep the others from being served
                self.unreadable[name] = str(error)

    def collect(self) -> int:
        """Drop the objects that no session needs any more; returns the bytes freed.

        Other servers may share the store, so every log is read; where one cannot be, nothing is dropped.
        """
        if self.unreadable:
            return 0
        needed, seen = set[str](), set[str]()
        while new := set(self.store.logs()) - seen:  # a fork may come while its origin is read, and outlive it
            needed = needed.union(*(named(self.store.events(name)) for name in new))
            seen |= new
        return self.store.collect(needed)

    def _note(self, name: str, events: Sequence[Mapping[str, Any]]) -> Place:
        first, turns = events[0], turns_in(events)
        start = seed(first.get("key", ""), first.get("model", ""), first.get("tools", ()))
        links = self.index.links(turns, start)
        place = Place(name, first.get("key", ""), start, links, self.breaker, events=_light(events))
        place.used = float(events[-1].get("at", place.used))
        with self._lock:
            self._places[name] = place
        if first.get("model") == self.engine.model.digest:
            self.index.add(name, start, links)
        return place

    def all(self, key: str | None = None) -> list[Place]:
        """Those of one key, or of all; the newest first."""
        with self._lock:
            found = [place for place in self._places.values() if key in (None, place.key)]
        return sorted(found, key=lambda place: -place.used)

    def get(self, name: str, key: str) -> Place:
        """Raises Missing where there is none, or it is another key's."""
        with self._lock:
            place = self._places.get(name)
        if name in self.unreadable:
            raise BadContext(f"session {name} cannot be read: {self.unreadable[name]}")
        if place is None or place.key != key or place.gone:
            raise Missing(f"there is no session {name!r}; GET /holdfast/sessions lists those that there are")
        return place

    @contextmanager
    def entered(self, name: str, key: str) -> Iterator[Place]:
        """A session in memory that nobody else works on. Raises Missing, TooLarge and Busy."""
        place = self.get(name, key)
        with self._working(place):
            yield place

    @contextmanager
    def continuing(self, ask: Ask) -> Iterator[tuple[Place, int]]:
        """The session that a request continues, and how many of its turns that holds already; a new one where none has
        any in common. Raises TooLarge and Busy."""
        start = seed(ask.key, self.engine.model.digest, ask.tools)
        links = self.index.links(ask.turns, start)
        while True:
            name, turns = self.index.longest(links) or ("", 0)
            with ExitStack() as held:
                try:
                    place = self.get(name, ask.key) if turns else self._new(ask, start)
                    held.enter_context(self._working(place))
                    if place.links[:turns] != links[:turns]:
                        continue  # it went another way while we waited
                    if len(place.links) > turns:
                        self._forked(place, turns, ask.turns[:turns])
                        continue  # the fork is found now, unless another one was faster
                except (Missing, BadContext):  # dropped meanwhile, or damaged: the client has sent all that it held
                    self.index.remove(name)
                    continue
                try:
                    yield place, turns
                finally:
                    if not place.links:  # nothing could be read
                        with suppress(HoldfastError):
                            self._drop(place)
                return

    def note_turns(self, place: Place, turns: Sequence[Turn]) -> None:
        """The session of a place has grown, or was taken back: from now on requests find it by these turns."""
        place.links = self.index.links(turns, place.seed)
        place.used = time.time()
        self.index.add(place.name, place.seed, place.links, turns)

    def room(self, place: Place, tokens: int) -> None:
        """Take memory for so many more tokens of a session. Raises TooLarge and Busy."""
        held = place.held.cache.footprint if place.session else 0
        self._spill(self.memory.grow(place.name, held + full_bytes(self.engine.model, tokens + RESERVE)))

    def fork(self, place: Place, turns: int | None = None) -> Place:
        """A second session with the first turns of one that is entered."""
        turns = len(place.links) if turns is None else turns
        if not 0 <= turns <= len(place.links):
            raise BadInput(f"turn {turns} cannot be forked at: the session has {len(place.links)}")
        return self._forked(place, turns, place.held.turns[:turns])

    def drop(self, name: str, key: str) -> None:
        """Forget a session and its log. Its objects go when the store collects."""
        place = self.get(name, key)
        with place.lock:
            if place.gone:
                raise Missing(f"session {name!r} was dropped meanwhile")
            self._drop(place)
            self.memory.drop(name)

    def adopt(self, name: str) -> Place:
        """Take note of a session that has just been written to the store."""
        return self._note(name, self.store.events(name))

    def reject(self, name: str) -> None:
        """Drop what was adopted and does not open, in the store too."""
        with suppress(HoldfastError):
            self.store.drop(name)
        with self._lock:
            place = self._places.get(name)
        if place is not None:
            with place.lock:
                self._forget(place)
                self.memory.drop(name)

    def save(self) -> None:
        """Store the memory of every session, so that the next start reads nothing again."""
        for place in self.all():
            with place.lock:
                self._saved(place)

    def _new(self, ask: Ask, start: bytes) -> Place:
        name = uuid4().hex
        about = {"key": ask.key}
        session = Session(self.engine, self.plan, tools=ask.tools, store=self.store, name=name, about=about)
        place = Place(name, ask.key, start, [], self.breaker, session)
        with self._lock:
            self._places[name] = place
        return place

    def _forked(self, place: Place, turns: int, given: Sequence[Turn]) -> Place:
        name = uuid4().hex
        try:
            with self.model:
                session = place.held.fork(name, turns)
        except Exception:
            with suppress(HoldfastError):
                self.store.drop(name)
            raise
        twin = Place(name, place.key, place.seed, place.links[:turns], self.breaker, session)
        with self._lock:
            self._places[name] = twin
        try:
            self._spill(self.memory.admit(name, self._size(twin)))
            self.memory.release(name)
        except (Busy, TooLarge):
            self._put_away(twin)
        self.index.add(name, twin.seed, twin.links, given)
        return twin

    def _drop(self, place: Place) -> None:
        """Forget a session that we hold, here and in the store."""
        self.store.drop(place.name)
        self._forget(place)

    def _forget(self, place: Place) -> None:
        self.index.remove(place.name)
        place.gone, place.session = True, None
        with self._lock:
            self._places.pop(place.name, None)

    @contextmanager
    def _working(self, place: Place) -> Iterator[Place]:
        """Alone with a session, which is in memory. Raises Missing where it was dropped, BadContext where it is
        damaged."""
        with self._lock:
            place.busy += 1
        try:
            with place.lock:
                if place.gone:
                    raise Missing(f"session {place.name!r} was dropped meanwhile")
                self._spill(self.memory.admit(place.name, self._size(place)))
                try:
                    self._load(place)
                    yield place
                except Exception as error:
                    if not isinstance(error, BadInput | Busy):
                        self._agree(place)
                    raise
                finally:
                    self._released(place)
        finally:
            with self._lock:
                place.busy -= 1

    def _agree(self, place: Place) -> None:
        """After a failure: where the log is not what memory thinks, because a write came through that seemed to fail or
        another server wrote, what the log says counts."""
        session, events = place.session, None
        if session is None:
            return
        with suppress(HoldfastError):
            events = self.store.events(place.name)
        if events == []:
            self._forget(place)
        elif events is None or len(events) != len(session.events):
            place.events, place.session = _light(events or session.events), None
            self.note_turns(place, turns_in(place.events))

    def _size(self, place: Place) -> int:
        if place.session:
            return max(1, place.session.cache.footprint)
        told = [event["told"] for event in place.events if "bytes" in event.get("told", {})]
        return max(1, int(told[-1]["bytes"])) if told else 1

    def _load(self, place: Place) -> None:
        if place.session is None:
            with self.model:
                place.session = Session.resume(place.name, self.engine, self.store, self.plan)

    def _released(self, place: Place) -> None:
        """What is held is now known to the byte; the session may be spilled again. One that took more than it asked
        for, and has no room now, goes itself."""
        fits = place.session is not None
        try:
            if fits:
                self._spill(self.memory.grow(place.name, self._size(place)))
        except (Busy, TooLarge):
            fits = False
        self.memory.release(place.name)
        if not fits:
            self.memory.drop(place.name)
            self._put_away(place)

    def _spill(self, names: Sequence[str]) -> None:
        """Bring sessions to disk. Memory has them off its books already; one that is on them again is in use."""
        for name in names:
            with self._lock:
                place = self._places.get(name)
            while place is not None and name not in self.memory.resident:
                if place.lock.acquire(timeout=WAIT):  # who has it is about to be on the books, or to leave
                    try:
                        if name not in self.memory.resident:
                            self._put_away(place)
                    finally:
                        place.lock.release()
                    break

    def _put_away(self, place: Place) -> None:
        """A session that we hold leaves memory. Where it cannot be saved, it is read again from its log."""
        self._saved(place)
        if place.session:
            place.events, place.session = _light(place.session.events), None
            self.index.let_go(place.name)

    def _saved(self, place: Place) -> None:
        """Save where anything was read since the last time. What cannot be saved is in the log all the same."""
        session = place.session
        if session is None or not session.turns or session.events[-1]["kind"] in ("saved", "compacted"):
            return
        try:
            session.save()
        except Exception as error:
            log.warning("session %s is not saved, and will be read again: %s", place.name, error)
            self._agree(place)


def _light(events: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Events without their token ids, which a session that is on disk does not need."""
    return [{name: value for name, value in event.items() if name != "blocks"} for event in events]


def turns_in(events: Sequence[Mapping[str, Any]]) -> list[Turn]:
    """The turns that stand after all events of a log."""
    turns: list[Turn] = []
    for event in events:
        if event["kind"] == "turns":
            turns += map(turn_of, event["turns"])
        elif event["kind"] == "rewound":
            del turns[event["turns"] :]
    return turns
