"""The host: answers over live sessions, reads only what is new, and compacts while nobody waits.

    request -> which session holds these turns? -> read the others -> answer -> does the trigger say compact?

One model serves all sessions, step by step in turn. Everything that was acknowledged is in the store before the answer
ends; what is in memory can be lost without loss.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from threading import Event as Flag
from threading import Lock, Thread
from typing import Any

from holdfast.blocks.render import render
from holdfast.compaction.compact import full_bytes
from holdfast.compaction.plan import Plan
from holdfast.config import home
from holdfast.engine.answer import Answer
from holdfast.engine.kv_context import check_retains
from holdfast.engine.local import LocalEngine
from holdfast.engine.sampling import Sampling
from holdfast.errors import BadContext, BadInput, BadOption, Busy, Conflict, Failed, HoldfastError, TooLarge
from holdfast.server.output.processor import Reply
from holdfast.server.protocol import Ask, Detail, Event, Finished, RawTurn, Row, Started, Stats
from holdfast.server.sessions import export, views
from holdfast.server.sessions.chunked_prefill import pieces
from holdfast.server.sessions.compaction_options import changed
from holdfast.server.sessions.registry import Place, Places
from holdfast.session.cache import PreparedCompaction, SessionCache
from holdfast.session.session import Session
from holdfast.session.trigger import CircuitBreaker, CompactionReason, SessionStatus, Trigger, due
from holdfast.storage.store import Store
from holdfast.transcript.turn import Role, Transcript, Turn

log = logging.getLogger("holdfast.server")
LIMIT = 1024  # tokens of an answer whose caller says nothing
PIECES = 8  # in which a window is filled by a history that is longer; one of them is kept free for an answer
LOOK = 1.0  # seconds between looks at who rests
TIDY = 500  # answers after which objects that no session needs are looked for


@dataclass(frozen=True)
class HostPolicy:
    """How a host runs its sessions."""

    trigger: Trigger = field(default_factory=Trigger)
    breaker: CircuitBreaker = field(default_factory=CircuitBreaker)
    memory: int = 8 << 30
    """Bytes of KV memory for all sessions together."""
    restart: bool = False
    """Read what stays again after a compaction, in place of keeping its states."""
    max_tokens: int = LIMIT
    """Tokens of an answer whose caller says nothing."""


class SessionHost:
    """`server.asks.Host` over a local model."""

    def __init__(self, engine: LocalEngine, plan: Plan, store: Store, policy: HostPolicy | None = None) -> None:
        """Takes note of every session of the store. Raises UnsupportedModel for a model that needs `restart`."""
        if not (policy or HostPolicy()).restart:
            check_retains(engine.model)
        self.engine, self.plan, self.policy = engine, plan, policy or HostPolicy()
        self.model = engine.model.name
        self.places = Places(engine, plan, store, self.policy.memory, self.policy.breaker)
        self.places.find()
        self._counts: dict[str, float] = {}
        self._answers = 0
        self._counting, self._closing = Lock(), Flag()
        self._later = ThreadPoolExecutor(1, "compact")
        self._later.submit(self._collect)
        if self.policy.trigger.idle is not None:
            Thread(target=self._watch, name="idle", daemon=True).start()

    # -- answering -------------------------------------------------------------------------------------------------

    def complete(self, ask: Ask) -> Iterator[Event]:
        """As `Host.complete`."""
        if self._closing.is_set():
            raise Busy("the server is shutting down; send the request again in a moment")
        yield from self._plain(ask) if ask.prompt is not None else self._answered(ask)

    def _answered(self, ask: Ask) -> Iterator[Event]:
        if not ask.turns:
            raise BadInput("a request needs at least one message")
        began = time.perf_counter()
        with self.places.continuing(ask) as (place, known):
            session, cached = place.held, place.held.cache.tokens if known else 0
            self._read(place, ask.turns[known:])
            limit = self._limit(session, ask)
            answer = session.answer(limit, self.sampling(ask))
            prompt = session.cache.tokens + len(answer.opening)
            yield Started(place.name, prompt, cached)
            reply = Reply(answer, ask, self.places.model, f"{place.name}{len(session.turns)}")
            first: float | None = None
            for piece in reply.pieces():
                first = first or time.perf_counter() - began
                yield piece
            told = {"prompt": prompt, "prefilled": prompt - cached, "first": round(first, 3) if first else None}
            with self.places.model:
                session.commit(answer, reply.turn, cut=bool(reply.stopped_by), told=told)
            self.places.note_turns(place, session.turns)
            self._count(prompt_tokens=prompt, cached_tokens=cached, completion_tokens=len(answer.ids))
            used = prompt, cached, len(answer.ids)
            yield Finished(reply.turn, reply.reason, *used, views.extension(place), reply.stopped_by)
            if self._due(place):
                self._soon(self._compact_later, place.name, place.key)
        self._answers += 1
        if self._answers % TIDY == 0:
            self._soon(self._collect)

    def sampling(self, ask: Ask) -> Sampling:
        """How the tokens of an answer are chosen; a subclass may steer a model that is too small for its task."""
        return Sampling(ask.temperature, ask.top_p, ask.seed)

    def _plain(self, ask: Ask) -> Iterator[Event]:
        """A text to continue: no template, no session."""
        model = self.engine.model
        ids = model.tokenizer(ask.prompt, add_special_tokens=False)["input_ids"] or [model.tokenizer.eos_token_id]
        limit = ask.limit or self.policy.max_tokens
        if len(ids) + limit > model.max_tokens:
            raise TooLarge(f"a prompt of {len(ids)} tokens and an answer of {limit} exceed {model.max_tokens}")
        yield Started("", len(ids), 0)
        answer = Answer(self.engine, SessionCache.empty(model).live, ids, limit, self.sampling(ask))
        reply = Reply(answer, replace(ask, tools=()), self.places.model, "")
        yield from reply.pieces()
        self._count(prompt_tokens=len(ids), completion_tokens=len(answer.ids))
        yield Finished(reply.turn, reply.reason, len(ids), 0, len(answer.ids), {}, reply.stopped_by)

    def _read(self, place: Place, turns: Sequence[Turn]) -> None:
        """Read new turns, all at once where they fit, else exchange by exchange with compactions between them."""
        if not turns:
            return
        session, window = place.held, self.engine.model.max_tokens
        sizes: Counter[int] = Counter()
        for block in session.render_turns(turns):
            sizes[block.origin.turn] += len(block)
        self.places.room(place, min(sizes.total(), window))
        end = session.cache.live.next_position + sizes.total() + self._answer_room
        fits = end <= self.policy.trigger.force * window
        whole = [(tuple(turns), sizes.total())]
        for piece, tokens in whole if fits else pieces(session.turns, turns, sizes, window // PIECES):
            if not fits:
                self._make_room(place, tokens)
            with self.places.model:
                session.append(piece)
            self.places.note_turns(place, session.turns)

    @property
    def _answer_room(self) -> int:
        """Positions that are kept free for an answer."""
        return min(self.policy.max_tokens, self.engine.model.max_tokens // PIECES)

    def _make_room(self, place: Place, tokens: int) -> None:
        """Compact before turns that would go beyond what the model reads. Where that is not enough, reading says so."""
        end, window = place.held.cache.live.next_position, self.engine.model.max_tokens
        if end + tokens + self._answer_room > self.policy.trigger.force * window:
            with suppress(BadInput):  # nothing may be compacted yet
                self._compact(place, CompactionReason("force", "the next turns would not fit the window", None))

    def _limit(self, session: Session, ask: Ask) -> int:
        """Tokens of the answer: what was asked for, as far as the model reads and the memory reaches."""
        model = self.engine.model
        room = (self.policy.memory - session.cache.nbytes) // full_bytes(model, 1)
        left = min(model.max_tokens - session.cache.live.next_position, room) - 16  # what opens and closes an answer
        if left < 1:
            raise TooLarge(
                f"the history takes all {model.max_tokens} positions that {self.model} reads, or all the memory for "
                "sessions; compact the session, or send less"
            )
        return min(ask.limit or self.policy.max_tokens, left)

    def count(self, ask: Ask) -> int:
        """As `Host.count`."""
        tokenizer = self.engine.model.tokenizer
        if ask.prompt is not None:
            return len(tokenizer(ask.prompt, add_special_tokens=False)["input_ids"])
        return len(render(Transcript(ask.turns, meta={"tools": list(ask.tools)}), tokenizer).ids)

    # -- compacting ------------------------------------------------------------------------------------------------

    def _due(self, place: Place, idle: float = 0.0) -> CompactionReason | None:
        session = place.held
        answered = {turn.call_id for turn in session.turns if turn.role is Role.TOOL}
        last = session.turns[-1] if session.turns else None
        # a call that is open is the newest exchange: where that stays verbatim, the time while tools run is the best
        waiting = last.calls if last and not session.plan.policy.keep_recent else ()
        seen = SessionStatus(
            turns=len(session.turns),
            held=round(session.cache.slots),
            compactable=session.compactable,
            verbatim=sum(map(len, session.cache.blocks[session.cache.tail :])),
            window=self.engine.model.max_tokens,
            idle_seconds=idle,
            open_calls=sum(call.id not in answered for call in waiting),
            marked=place.marked,
            breaker=place.breaker,
        )
        return due(seen, self.policy.trigger)

    def _soon(self, work: Callable[..., None], *of: str) -> None:
        """Do something in the background."""
        with suppress(RuntimeError):  # the server is shutting down
            self._later.submit(work, *of)

    def _compact_later(self, name: str, key: str, idle: float = 0.0) -> None:
        """In the background, where it is still due; the session answers meanwhile. One that failed to compact is as it
        was, and counted."""
        try:
            with self.places.entered(name, key) as place:
                session, why = place.held, self._due(place, idle)
            if why and not self._closing.is_set():
                with self._counted(place, session):
                    made = self._prepared(session, why)
                    with self.places.entered(name, key), self.places.model:
                        if place.session is not session:
                            raise Conflict("the session left memory while it was being compacted")
                        session.adopt(made, why.text)
        except HoldfastError as error:
            log.info("session %s is not compacted: %s", name, error)
        except Exception:  # nobody waits for it, and the thread has others to look after
            log.exception("session %s is not compacted", name)

    def _compact(self, place: Place, why: CompactionReason) -> None:
        """Now, because something waits for it. Raises what the compaction raises."""
        session = place.held
        with self._counted(place, session):
            made = self._prepared(session, why)
            with self.places.model:
                session.adopt(made, why.text)

    def _prepared(self, session: Session, why: CompactionReason) -> PreparedCompaction:
        """By the plan, then to the trigger's target where so much may go. Others use the model between its steps."""
        with self.places.model:
            return session.prepare(
                restart=self.policy.restart, target=why.target, progress=lambda *_: self.places.model.give_way()
            )

    @contextmanager
    def _counted(self, place: Place, session: Session) -> Iterator[None]:
        """The breaker and the counters know of a compaction, whether it fails or not."""
        began, before, left = time.perf_counter(), round(session.cache.slots), None
        try:
            yield
            left = min(before, round(session.cache.slots))
            place.marked = False
            self._count(compactions=1, compaction_seconds=time.perf_counter() - began)
        except Exception:
            self._count(failures=1)
            raise
        finally:
            place.breaker, place.used = place.breaker.after(len(session.turns), before, left), time.time()

    def _watch(self) -> None:
        while not self._closing.wait(LOOK):
            for place in self.places.all():
                idle = time.time() - place.used
                if idle >= (self.policy.trigger.idle or 0) and self._rests(place, idle):
                    self._compact_later(place.name, place.key, idle)

    def _rests(self, place: Place, idle: float) -> bool:
        """Whether nobody works on a session that is to be compacted. To look is not to use it."""
        if not place.lock.acquire(blocking=False):
            return False
        try:
            return place.session is not None and not place.busy and self._due(place, idle) is not None
        finally:
            place.lock.release()

    # -- what the owner of a session may do ------------------------------------------------------------------------

    def sessions(self, key: str) -> list[Row]:
        """As `Host.sessions`."""
        return [views.row(place, self.engine.model) for place in self.places.all(key)]

    def session(self, session: str, key: str) -> Detail:
        """As `Host.session`."""
        with self.places.entered(session, key) as place:
            return views.detail(place, self.engine.model)

    def compact(self, session: str, key: str, options: Mapping[str, Any]) -> Row:
        """As `Host.compact`."""
        with self.places.entered(session, key) as place:
            policy = self.policy
            plan = changed(place.held.plan, options)
            began = time.perf_counter()
            with self.places.model:
                place.held.compact(plan, restart=bool(options.get("restart", policy.restart)), why="asked")
            self._count(compactions=1, compaction_seconds=time.perf_counter() - began)
            place.used = time.time()
            return views.row(place, self.engine.model)

    def undo(self, session: str, key: str) -> Row:
        """As `Host.undo`."""
        with self.places.entered(session, key) as place:
            self.places.room(place, place.held.cache.tokens)  # which may wait for one who waits for the model
            with self.places.model:
                place.held.undo()
            place.used = time.time()
            return views.row(place, self.engine.model)

    def expand(self, session: str, key: str, turn: int) -> RawTurn:
        """As `Host.expand`."""
        with self.places.entered(session, key) as place:
            return views.raw(place.held.turn(turn - 1), turn)

    def pin(self, session: str, key: str, turn: int, pinned: bool) -> Row:
        """As `Host.pin`."""
        with self.places.entered(session, key) as place:
            place.held.pin(turn - 1, pinned)
            place.used = time.time()
            return views.row(place, self.engine.model)

    def mark(self, session: str, key: str, mark: str, turn: int | None) -> Row:
        """As `Host.mark`."""
        with self.places.entered(session, key) as place:
            if mark == "fork":
                return views.row(self.places.fork(place, turn), self.engine.model)
            if mark == "discard":
                with self.places.model:
                    place.held.rewind(max(0, len(place.held.turns) - 1))
                self.places.note_turns(place, place.held.turns)
                place.breaker = self.policy.breaker  # it counts turns, which are fewer now
            elif mark == "boundary":
                place.marked, place.used = True, time.time()
            else:
                raise BadOption(f"a mark is one of fork, discard and boundary, got {mark!r}")
            row = views.row(place, self.engine.model)
        if mark == "boundary":
            self._soon(self._compact_later, session, key)
        return row

    def export(self, session: str, key: str) -> bytes:
        """As `Host.export`."""
        with self.places.entered(session, key):
            return export.packed(self.places.store, session)

    def take(self, data: bytes, key: str) -> Row:
        """As `Host.take`."""
        name = export.unpacked(self.places.store, data, key, self.engine.model)
        try:
            self.places.adopt(name)
            with self.places.entered(name, key) as place:
                views.detail(place, self.engine.model)  # whatever can be asked of it must work before it is kept
                return views.row(place, self.engine.model)
        except Exception as error:
            self.places.reject(name)
            if isinstance(error, BadContext | TooLarge | Failed | MemoryError):
                raise
            raise BadContext(f"this is no exported session ({error}); export it again with GET …/export") from error

    def drop(self, session: str, key: str) -> None:
        """As `Host.drop`."""
        self.places.drop(session, key)

    def stats(self) -> Stats:
        """As `Host.stats`."""
        places = self.places.all()
        held = [session.cache for place in places if (session := place.session)]
        with self._counting:
            counts = dict(self._counts)
        seconds = counts.pop("compaction_seconds", 0.0)
        nbytes = sum(one.nbytes for one in held)
        slots = round(nbytes / full_bytes(self.engine.model, 1))
        whole = {name: int(value) for name, value in counts.items()}
        return Stats(len(places), len(held), nbytes, slots, compaction_seconds=seconds, **whole)

    def close(self) -> None:
        """As `Host.close`."""
        self._closing.set()
        self._later.shutdown(wait=True, cancel_futures=True)
        self.places.save()

    def _collect(self) -> None:
        try:
            self.places.collect()
        except HoldfastError as error:  # the next start tries again
            log.warning("what sessions left behind is not cleared away: %s", error)

    def _count(self, **more: float) -> None:
        with self._counting:
            for name, value in more.items():
                self._counts[name] = self._counts.get(name, 0) + value


def open_host(engine: LocalEngine, plan: Plan, *, store: str = "", policy: HostPolicy | None = None) -> SessionHost:
    """A host with its sessions under `store`, a folder or an fsspec URL; in the user's Holdfast folder where empty."""
    return SessionHost(engine, plan, Store(store or str(home() / "sessions")), policy)
