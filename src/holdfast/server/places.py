"""Where sessions are: which one a request continues, which are in memory, and who works on one now.

A request takes the session that has most of its turns in common and goes on there, or forks it where the two part. One
request at a time works on a session; a second one waits, and then continues or forks what it finds.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock, RLock
from typing import Any
from uuid import uuid4

from holdfast.engine.local import LocalEngine
from holdfast.errors import BadContext, BadInput, Busy, Missing, TooLarge
from holdfast.latent import Plan, full_bytes
from holdfast.memory import Budgeted
from holdfast.record import named, turn_of
from holdfast.server.asks import Ask
from holdfast.server.turnstile import Turnstile
from holdfast.session import Session
from holdfast.store import Store
from holdfast.textual import Breaker
from holdfast.transcript.chain import Index, seed
from holdfast.transcript.turn import Turn

RESERVE = 256  # tokens of an answer for which memory is taken before it is known how long it gets


@dataclass
class Place:
    """One session, in memory or on disk."""

    name: str
    key: str
    seed: bytes
    links: list[bytes]
    breaker: Breaker
    session: Session | None = None
    events: list[Mapping[str, Any]] = field(default_factory=list)
    """Of a session that is not in memory."""
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

    @property
    def past(self) -> Sequence[Mapping[str, Any]]:
        return self.session.events if self.session else self.events


class Places:
    """All sessions of a server. Any thread may call."""

    def __init__(self, engine: LocalEngine, plan: Plan, store: Store, budget: int, breaker: Breaker) -> None:
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
                self._note(name, self.store.events(name))
            except BadInput as error:  # one damaged log must not keep the others from being served
                self.unreadable[name] = str(error)
        self.collect()

    def collect(self) -> int:
        """Drop the objects that no session needs any more; returns the bytes freed.

        Other servers may share the store, so every log is read; where one cannot be, nothing is dropped.
        """
        if self.unreadable:
            return 0
        needed = [named(self.store.events(name)) for name in self.store.logs()]
        return self.store.collect(set().union(*needed))

    def _note(self, name: str, events: Sequence[Mapping[str, Any]]) -> Place:
        if not events:
            raise BadContext(f"session {name} has no events")
        first, turns = events[0], turns_in(events)
        start = seed(first.get("key", ""), first.get("model", ""), first.get("tools", ()))
        links = self.index.links(turns, start)
        place = Place(name, first.get("key", ""), start, links, self.breaker, events=list(events))
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
        if place is None or place.key != key or place.gone:
            raise Missing(f"there is no session {name!r}; GET /holdfast/sessions lists those that there are")
        return place

    @contextmanager
    def entered(self, name: str, key: str) -> Iterator[Place]:
        """A session in memory that nobody else works on. Raises Missing, TooLarge and Busy."""
        place = self.get(name, key)
        with self._working(place):
            if place.gone:
                raise Missing(f"session {name!r} was dropped meanwhile")
            yield place

    @contextmanager
    def continuing(self, ask: Ask) -> Iterator[tuple[Place, int]]:
        """The session that a request continues, and how many of its turns that holds already; a new one where none has
        any in common. Raises TooLarge and Busy."""
        start = seed(ask.key, self.engine.model.digest, ask.tools)
        links = self.index.links(ask.turns, start)
        while True:
            found = self.index.longest(links)
            if found is None:
                with self._fresh(self._new(ask, start)) as place:
                    yield place, 0
                    return
            name, turns = found
            try:
                place = self.get(name, ask.key)
            except Missing:
                self.index.remove(name)
                continue
            with self._working(place):
                if place.gone or place.links[:turns] != links[:turns]:
                    continue  # it went another way while we waited
                if len(place.links) == turns:
                    yield place, turns
                    return
                twin = self._forked(place, turns, ask.turns[:turns])
            with self._fresh(twin):
                yield twin, turns
                return

    def note_turns(self, place: Place, turns: Sequence[Turn]) -> None:
        """The session of a place has grown, or was taken back: from now on requests find it by these turns."""
        place.links = self.index.links(turns, place.seed)
        place.used = time.time()
        self.index.add(place.name, place.seed, place.links, turns)

    def room(self, place: Place, tokens: int) -> None:
        """Take memory for so many more tokens of a session. Raises TooLarge and Busy."""
        held = place.held.held.nbytes if place.session else 0
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
            self.index.remove(name)
            self.memory.drop(name)
            place.gone, place.session = True, None
            with self._lock:
                del self._places[name]
            self.store.drop(name)

    def adopt(self, name: str) -> Place:
        """Take note of a session that has just been written to the store."""
        return self._note(name, self.store.events(name))

    def save(self) -> None:
        """Store the memory of every session, so that the next start reads nothing again."""
        for place in self.all():
            with place.lock:
                self._save(place)

    def _new(self, ask: Ask, start: bytes) -> Place:
        name = uuid4().hex
        about = {"key": ask.key}
        session = Session(self.engine, self.plan, tools=ask.tools, store=self.store, name=name, about=about)
        place = Place(name, ask.key, start, [], self.breaker, session)
        with self._lock:
            self._places[name] = place
        return place

    def _forked(self, place: Place, turns: int, given: Sequence[Turn]) -> Place:
        with self.model:
            session = place.held.fork()
            session.rewind(turns)
        twin = Place(session.name, place.key, place.seed, place.links[:turns], self.breaker, session)
        with self._lock:
            self._places[twin.name] = twin
        self.index.add(twin.name, twin.seed, twin.links, given)
        return twin

    @contextmanager
    def _fresh(self, place: Place) -> Iterator[Place]:
        """Alone with a session that has just begun. It goes again where nothing was read: nobody would find it."""
        turns = len(place.links)
        try:
            with self._working(place):
                yield place
        finally:
            if len(place.links) == turns and not place.busy:
                self.drop(place.name, place.key)

    @contextmanager
    def _working(self, place: Place) -> Iterator[Place]:
        """Alone with a session, which is in memory."""
        with self._lock:
            place.busy += 1
        try:
            with place.lock:
                self._spill(self.memory.admit(place.name, self._size(place)))
                try:
                    self._load(place)
                    yield place
                finally:
                    self._released(place)
        finally:
            with self._lock:
                place.busy -= 1

    def _size(self, place: Place) -> int:
        if place.session:
            return max(1, place.session.held.nbytes)
        told = [event["told"] for event in place.events if "bytes" in event.get("told", {})]
        return max(1, int(told[-1]["bytes"])) if told else 1

    def _load(self, place: Place) -> None:
        if place.session is None:
            with self.model:
                place.session = Session.resume(place.name, self.engine, self.store, self.plan)
            place.events = []

    def _released(self, place: Place) -> None:
        """What is held is now known to the byte; the session may be spilled again."""
        try:
            if place.session:
                self._spill(self.memory.grow(place.name, max(1, place.session.held.nbytes)))
        except (Busy, TooLarge):
            place.used = time.time()  # it takes more than it asked for: the next request of anyone spills more
        finally:
            self.memory.release(place.name)

    def _spill(self, names: Sequence[str]) -> None:
        """Bring sessions to disk. Memory has them off its books already."""
        for name in names:
            with self._lock:
                place = self._places.get(name)
            if place is None:
                continue
            with place.lock:
                self._save(place)
                if place.session and not place.busy:
                    place.events, place.session = list(place.session.events), None
                    self.index.let_go(name)

    def _save(self, place: Place) -> None:
        """Where anything was read since the last time."""
        if place.session and place.session.turns and place.session.events[-1]["kind"] not in ("saved", "compacted"):
            place.session.save()


def turns_in(events: Sequence[Mapping[str, Any]]) -> list[Turn]:
    """The turns that stand after all events of a log."""
    turns: list[Turn] = []
    for event in events:
        if event["kind"] == "turns":
            turns += map(turn_of, event["turns"])
        elif event["kind"] == "rewound":
            del turns[event["turns"] :]
    return turns
