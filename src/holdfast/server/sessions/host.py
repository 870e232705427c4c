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
from holdfast.server.output.processor import OutputProcessor
from holdfast.server.protocol import (
    AnswerEnd,
    AnswerStart,
    GenerateOutput,
    GenerateRequest,
    HostStats,
    RawTurn,
    SessionDetail,
    SessionRow,
)
from holdfast.server.sessions import export, views
from holdfast.server.sessions.chunked_prefill import split_turns
from holdfast.server.sessions.compaction_options import apply_options
from holdfast.server.sessions.registry import SessionEntry, SessionRegistry
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
        self.registry = SessionRegistry(engine, plan, store, self.policy.memory, self.policy.breaker)
        self.registry.discover()
        self._counts: dict[str, float] = {}
        self._answers = 0
        self._counting, self._closing = Lock(), Flag()
        self._later = ThreadPoolExecutor(1, "compact")
        self._later.submit(self._collect)
        if self.policy.trigger.idle is not None:
            Thread(target=self._watch, name="idle", daemon=True).start()

    # -- answering -------------------------------------------------------------------------------------------------

    def complete(self, ask: GenerateRequest) -> Iterator[GenerateOutput]:
        """As `Host.complete`."""
        if self._closing.is_set():
            raise Busy("the server is shutting down; send the request again in a moment")
        yield from self._plain(ask) if ask.prompt is not None else self._answered(ask)

    def _answered(self, ask: GenerateRequest) -> Iterator[GenerateOutput]:
        if not ask.turns:
            raise BadInput("a request needs at least one message")
        began = time.perf_counter()
        with self.registry.enter_matching(ask) as (entry, known):
            session, cached = entry.session, entry.session.cache.tokens if known else 0
            self._read(entry, ask.turns[known:])
            limit = self._limit(session, ask)
            answer = session.answer(limit, self.sampling(ask))
            prompt = session.cache.tokens + len(answer.opening)
            yield AnswerStart(entry.name, prompt, cached)
            reply = OutputProcessor(answer, ask, self.registry.model, f"{entry.name}{len(session.turns)}")
            first: float | None = None
            for piece in reply.pieces():
                first = first or time.perf_counter() - began
                yield piece
            told = {"prompt": prompt, "prefilled": prompt - cached, "first": round(first, 3) if first else None}
            with self.registry.model:
                session.commit(answer, reply.turn, cut=bool(reply.stopped_by), told=told)
            self.registry.update_turns(entry, session.turns)
            self._count(prompt_tokens=prompt, cached_tokens=cached, completion_tokens=len(answer.ids))
            used = prompt, cached, len(answer.ids)
            yield AnswerEnd(reply.turn, reply.reason, *used, views.extension(entry), reply.stopped_by)
            if self._due(entry):
                self._soon(self._compact_later, entry.name, entry.key)
        self._answers += 1
        if self._answers % TIDY == 0:
            self._soon(self._collect)

    def sampling(self, ask: GenerateRequest) -> Sampling:
        """How the tokens of an answer are chosen; a subclass may steer a model that is too small for its task."""
        return Sampling(ask.temperature, ask.top_p, ask.seed)

    def _plain(self, ask: GenerateRequest) -> Iterator[GenerateOutput]:
        """A text to continue: no template, no session."""
        model = self.engine.model
        ids = model.tokenizer(ask.prompt, add_special_tokens=False)["input_ids"] or [model.tokenizer.eos_token_id]
        limit = ask.max_tokens or self.policy.max_tokens
        if len(ids) + limit > model.max_tokens:
            raise TooLarge(f"a prompt of {len(ids)} tokens and an answer of {limit} exceed {model.max_tokens}")
        yield AnswerStart("", len(ids), 0)
        answer = Answer(self.engine, SessionCache.empty(model).live, ids, limit, self.sampling(ask))
        reply = OutputProcessor(answer, replace(ask, tools=()), self.registry.model, "")
        yield from reply.pieces()
        self._count(prompt_tokens=len(ids), completion_tokens=len(answer.ids))
        yield AnswerEnd(reply.turn, reply.reason, len(ids), 0, len(answer.ids), {}, reply.stopped_by)

    def _read(self, entry: SessionEntry, turns: Sequence[Turn]) -> None:
        """Read new turns, all at once where they fit, else exchange by exchange with compactions between them."""
        if not turns:
            return
        session, window = entry.session, self.engine.model.max_tokens
        sizes: Counter[int] = Counter()
        for block in session.render_turns(turns):
            sizes[block.origin.turn] += len(block)
        self.registry.reserve(entry, min(sizes.total(), window))
        end = session.cache.live.next_position + sizes.total() + self._answer_room
        fits = end <= self.policy.trigger.force * window
        whole = [(tuple(turns), sizes.total())]
        for piece, tokens in whole if fits else split_turns(session.turns, turns, sizes, window // PIECES):
            if not fits:
                self._make_room(entry, tokens)
            with self.registry.model:
                session.append(piece)
            self.registry.update_turns(entry, session.turns)

    @property
    def _answer_room(self) -> int:
        """Positions that are kept free for an answer."""
        return min(self.policy.max_tokens, self.engine.model.max_tokens // PIECES)

    def _make_room(self, entry: SessionEntry, tokens: int) -> None:
        """Compact before turns that would go beyond what the model reads. Where that is not enough, reading says so."""
        end, window = entry.session.cache.live.next_position, self.engine.model.max_tokens
        if end + tokens + self._answer_room > self.policy.trigger.force * window:
            with suppress(BadInput):  # nothing may be compacted yet
                self._compact(entry, CompactionReason("force", "the next turns would not fit the window", None))

    def _limit(self, session: Session, ask: GenerateRequest) -> int:
        """Tokens of the answer: what was asked for, as far as the model reads and the memory reaches."""
        model = self.engine.model
        room = (self.policy.memory - session.cache.nbytes) // full_bytes(model, 1)
        left = min(model.max_tokens - session.cache.live.next_position, room) - 16  # what opens and closes an answer
        if left < 1:
            raise TooLarge(
                f"the history takes all {model.max_tokens} positions that {self.model} reads, or all the memory for "
                "sessions; compact the session, or send less"
            )
        return min(ask.max_tokens or self.policy.max_tokens, left)

    def count(self, ask: GenerateRequest) -> int:
        """As `Host.count`."""
        tokenizer = self.engine.model.tokenizer
        if ask.prompt is not None:
            return len(tokenizer(ask.prompt, add_special_tokens=False)["input_ids"])
        return len(render(Transcript(ask.turns, meta={"tools": list(ask.tools)}), tokenizer).ids)

    # -- compacting ------------------------------------------------------------------------------------------------

    def _due(self, entry: SessionEntry, idle: float = 0.0) -> CompactionReason | None:
        session = entry.session
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
            marked=entry.marked,
            breaker=entry.breaker,
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
            with self.registry.enter(name, key) as entry:
                session, why = entry.session, self._due(entry, idle)
            if why and not self._closing.is_set():
                with self._counted(entry, session):
                    made = self._prepared(session, why)
                    with self.registry.enter(name, key), self.registry.model:
                        if entry.resident is not session:
                            raise Conflict("the session left memory while it was being compacted")
                        session.adopt(made, why.text)
        except HoldfastError as error:
            log.info("session %s is not compacted: %s", name, error)
        except Exception:  # nobody waits for it, and the thread has others to look after
            log.exception("session %s is not compacted", name)

    def _compact(self, entry: SessionEntry, why: CompactionReason) -> None:
        """Now, because something waits for it. Raises what the compaction raises."""
        session = entry.session
        with self._counted(entry, session):
            made = self._prepared(session, why)
            with self.registry.model:
                session.adopt(made, why.text)

    def _prepared(self, session: Session, why: CompactionReason) -> PreparedCompaction:
        """By the plan, then to the trigger's target where so much may go. Others use the model between its steps."""
        with self.registry.model:
            return session.prepare(
                restart=self.policy.restart, target=why.target, progress=lambda *_: self.registry.model.give_way()
            )

    @contextmanager
    def _counted(self, entry: SessionEntry, session: Session) -> Iterator[None]:
        """The breaker and the counters know of a compaction, whether it fails or not."""
        began, before, left = time.perf_counter(), round(session.cache.slots), None
        try:
            yield
            left = min(before, round(session.cache.slots))
            entry.marked = False
            self._count(compactions=1, compaction_seconds=time.perf_counter() - began)
        except Exception:
            self._count(failures=1)
            raise
        finally:
            entry.breaker, entry.used = entry.breaker.after(len(session.turns), before, left), time.time()

    def _watch(self) -> None:
        while not self._closing.wait(LOOK):
            for entry in self.registry.list_entries():
                idle = time.time() - entry.used
                if idle >= (self.policy.trigger.idle or 0) and self._rests(entry, idle):
                    self._compact_later(entry.name, entry.key, idle)

    def _rests(self, entry: SessionEntry, idle: float) -> bool:
        """Whether nobody works on a session that is to be compacted. To look is not to use it."""
        if not entry.lock.acquire(blocking=False):
            return False
        try:
            return entry.resident is not None and not entry.busy and self._due(entry, idle) is not None
        finally:
            entry.lock.release()

    # -- what the owner of a session may do ------------------------------------------------------------------------

    def sessions(self, key: str) -> list[SessionRow]:
        """As `Host.sessions`."""
        return [views.row(entry, self.engine.model) for entry in self.registry.list_entries(key)]

    def session(self, session: str, key: str) -> SessionDetail:
        """As `Host.session`."""
        with self.registry.enter(session, key) as entry:
            return views.detail(entry, self.engine.model)

    def compact(self, session: str, key: str, options: Mapping[str, Any]) -> SessionRow:
        """As `Host.compact`."""
        with self.registry.enter(session, key) as entry:
            policy = self.policy
            plan = apply_options(entry.session.plan, options)
            began = time.perf_counter()
            with self.registry.model:
                entry.session.compact(plan, restart=bool(options.get("restart", policy.restart)), why="asked")
            self._count(compactions=1, compaction_seconds=time.perf_counter() - began)
            entry.used = time.time()
            return views.row(entry, self.engine.model)

    def undo(self, session: str, key: str) -> SessionRow:
        """As `Host.undo`."""
        with self.registry.enter(session, key) as entry:
            self.registry.reserve(entry, entry.session.cache.tokens)  # which may wait for one who waits for the model
            with self.registry.model:
                entry.session.undo()
            entry.used = time.time()
            return views.row(entry, self.engine.model)

    def expand(self, session: str, key: str, turn: int) -> RawTurn:
        """As `Host.expand`."""
        with self.registry.enter(session, key) as entry:
            return views.raw(entry.session.turn(turn - 1), turn)

    def pin(self, session: str, key: str, turn: int, pinned: bool) -> SessionRow:
        """As `Host.pin`."""
        with self.registry.enter(session, key) as entry:
            entry.session.pin(turn - 1, pinned)
            entry.used = time.time()
            return views.row(entry, self.engine.model)

    def mark(self, session: str, key: str, mark: str, turn: int | None) -> SessionRow:
        """As `Host.mark`."""
        with self.registry.enter(session, key) as entry:
            if mark == "fork":
                return views.row(self.registry.fork(entry, turn), self.engine.model)
            if mark == "discard":
                with self.registry.model:
                    entry.session.rewind(max(0, len(entry.session.turns) - 1))
                self.registry.update_turns(entry, entry.session.turns)
                entry.breaker = self.policy.breaker  # it counts turns, which are fewer now
            elif mark == "boundary":
                entry.marked, entry.used = True, time.time()
            else:
                raise BadOption(f"a mark is one of fork, discard and boundary, got {mark!r}")
            row = views.row(entry, self.engine.model)
        if mark == "boundary":
            self._soon(self._compact_later, session, key)
        return row

    def export(self, session: str, key: str) -> bytes:
        """As `Host.export`."""
        with self.registry.enter(session, key):
            return export.pack_session(self.registry.store, session)

    def take(self, data: bytes, key: str) -> SessionRow:
        """As `Host.take`."""
        name = export.unpack_session(self.registry.store, data, key, self.engine.model)
        try:
            self.registry.register(name)
            with self.registry.enter(name, key) as entry:
                views.detail(entry, self.engine.model)  # whatever can be asked of it must work before it is kept
                return views.row(entry, self.engine.model)
        except Exception as error:
            self.registry.reject(name)
            if isinstance(error, BadContext | TooLarge | Failed | MemoryError):
                raise
            raise BadContext(f"this is no exported session ({error}); export it again with GET …/export") from error

    def drop(self, session: str, key: str) -> None:
        """As `Host.drop`."""
        self.registry.drop(session, key)

    def stats(self) -> HostStats:
        """As `Host.stats`."""
        entries = self.registry.list_entries()
        held = [session.cache for entry in entries if (session := entry.resident)]
        with self._counting:
            counts = dict(self._counts)
        seconds = counts.pop("compaction_seconds", 0.0)
        nbytes = sum(one.nbytes for one in held)
        slots = round(nbytes / full_bytes(self.engine.model, 1))
        whole = {name: int(value) for name, value in counts.items()}
        return HostStats(len(entries), len(held), nbytes, slots, compaction_seconds=seconds, **whole)

    def close(self) -> None:
        """As `Host.close`."""
        self._closing.set()
        self._later.shutdown(wait=True, cancel_futures=True)
        self.registry.save_all()

    def _collect(self) -> None:
        try:
            self.registry.collect_garbage()
        except HoldfastError as error:  # the next start tries again
            log.warning("what sessions left behind is not cleared away: %s", error)

    def _count(self, **more: float) -> None:
        with self._counting:
            for name, value in more.items():
                self._counts[name] = self._counts.get(name, 0) + value


def open_host(engine: LocalEngine, plan: Plan, *, store: str = "", policy: HostPolicy | None = None) -> SessionHost:
    """A host with its sessions under `store`, a folder or an fsspec URL; in the user's Holdfast folder where empty."""
    return SessionHost(engine, plan, Store(store or str(home() / "sessions")), policy)
