"""The host: answers over live sessions, and reads only what is new of each history.

    request -> which session holds these turns? -> read the others -> answer -> does the trigger say compact?

One model serves all sessions, and the threads of their requests share it step by step. Everything that was acknowledged
is in the store before the answer ends; what is in memory can be lost without loss.
"""

from __future__ import annotations

import copy
import json
import logging
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import takewhile
from threading import Event
from typing import Any

from holdfast.blocks.messages import shows_tools
from holdfast.blocks.render import render
from holdfast.compaction.plan import Plan
from holdfast.config import home
from holdfast.engine.answer import Answer
from holdfast.engine.kv_context import check_retains
from holdfast.engine.local import LocalEngine
from holdfast.engine.sampling import Sampling
from holdfast.errors import BadContext, BadInput, BadOption, Busy, Failed, HoldfastError, PromptTooLong, TooLarge
from holdfast.mementos.live import append_turns, begin_answer, commit_answer
from holdfast.mementos.rules import MementoRules
from holdfast.mementos.strategy import MementoStrategy
from holdfast.model.load import full_bytes
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
from holdfast.server.sessions import export, upkeep, views
from holdfast.server.sessions.chunked_prefill import check_fit, split_turns
from holdfast.server.sessions.compaction_options import apply_options
from holdfast.server.sessions.compaction_queue import CompactionQueue, CompactionRequest
from holdfast.server.sessions.counters import Counters
from holdfast.server.sessions.entry import SessionEntry
from holdfast.server.sessions.prefix_index import VOLATILE
from holdfast.server.sessions.registry import SessionRegistry
from holdfast.session.cache import SessionCache
from holdfast.session.retention import StoreLimits
from holdfast.session.session import Session
from holdfast.session.trigger import CircuitBreaker, Trigger
from holdfast.storage.store import Store
from holdfast.transcript.turn import Role, Transcript, Turn

log = logging.getLogger("holdfast.server")
LIMIT = 1024  # tokens of an answer whose caller says nothing
PIECES = 8  # in which a window is filled by a history that is longer; one of them is kept free for an answer
HEAD = 1024
LETTERS = 6  # that a token has at most on average, in prompts of agents
TIDY = 100  # answers after which the store is brought within its limits


@dataclass(frozen=True)
class HostPolicy:
    """Rules by which a host runs its sessions."""

    trigger: Trigger = field(default_factory=Trigger)
    breaker: CircuitBreaker = field(default_factory=CircuitBreaker)
    memory: int = 8 << 30
    """Bytes of KV memory for all sessions together."""
    accept: float | None = None
    """Share of the agent's next step that a background compaction must retain to be taken over; None takes every one.
    See `session/acceptance.py`."""
    restart: bool = False
    """Read what stays again after a compaction, in place of keeping its states."""
    max_tokens: int = LIMIT
    """Tokens of an answer whose caller says nothing."""
    store: StoreLimits = field(default_factory=StoreLimits)
    """The most that the store of the sessions may hold."""
    head: int = HEAD
    """Tokens of a system prompt with its tools, from which on its states are read once and shared between the sessions
    of a key."""
    blocks: MementoRules | None = None
    """The model writes blocks and mementos itself, and a block goes by these rules; None takes them for text."""
    mementos: MementoStrategy | None = None
    """Compact by a memento on the old exchanges; None compacts by the plan."""
    volatile: tuple[str, ...] = VOLATILE
    """Patterns of lines of a system prompt that change from request to request and do not make it another session."""


class SessionHost:
    """`server.protocol.Host` over a local model."""

    def __init__(self, engine: LocalEngine, plan: Plan, store: Store, policy: HostPolicy | None = None) -> None:
        """Takes note of every session of the store. Raises UnsupportedModel for a model that needs `restart`."""
        self.engine, self.plan, self.policy = engine, plan, policy or HostPolicy()
        if not self.policy.restart or self.policy.blocks or self.policy.mementos:
            check_retains(engine.model)
        self.model, self.window = engine.model.name, engine.model.max_tokens
        self.shows_tools = shows_tools(engine.model.tokenizer)
        self.counters = Counters()
        about = self.policy.memory, self.policy.breaker, self.policy.volatile
        self.registry = SessionRegistry(engine, plan, store, *about)
        self.registry.discover()
        self._answers = 0
        self._closing = Event()
        how = self.policy.restart, self.counters, self.policy.accept, self.policy.mementos
        self.compactions = CompactionQueue(self.registry, self.policy.trigger, *how)
        self.compactions.submit(self._collect)

    # -- answering -------------------------------------------------------------------------------------------------

    def complete(self, request: GenerateRequest) -> Iterator[GenerateOutput]:
        """Yields an answer as `Host.complete` says."""
        if self._closing.is_set():
            raise Busy("the server is shutting down; send the request again in a moment")
        yield from self._continue_text(request) if request.prompt is not None else self._continue_session(request)

    def _continue_session(self, request: GenerateRequest) -> Iterator[GenerateOutput]:
        if not request.turns:
            raise BadInput("a request needs at least one message")
        began = time.perf_counter()
        own = self._read_head(request)
        with self.registry.enter_matching(request) as (entry, known):
            session, cached = entry.session, max(0, entry.session.cache.tokens - own) if known else 0
            with entry.track_activity("reading"):
                self._prefill(entry, request.turns[known:])
            answer = begin_answer(session, self.policy.blocks, self._limit(session, request), self.sampling(request))
            prompt = session.cache.tokens + len(answer.opening)
            yield AnswerStart(entry.name, prompt, cached)
            output = OutputProcessor(answer, request, f"{entry.name}{len(session.turns)}")
            first: float | None = None
            with entry.track_activity("answering"):
                for piece in output.generate():
                    first = first or time.perf_counter() - began
                    yield piece
            told = {"prompt": prompt, "prefilled": prompt - cached, "first": round(first, 3) if first else None}
            commit_answer(session, answer, output.turn, cut=bool(output.stopped_by), told=told)
            self.registry.update_turns(entry, session.turns)
            used = prompt, cached, len(answer.ids)
            self.counters.add(
                request.key, prompt_tokens=prompt, cached_tokens=cached, completion_tokens=len(answer.ids)
            )
            yield AnswerEnd(output.turn, output.reason, *used, views.extension(entry), output.stopped_by)
            self.compactions.submit_if_due(entry)
        self._answers += 1
        if self._answers % TIDY == 0:
            self.compactions.submit(self._collect)

    def sampling(self, request: GenerateRequest) -> Sampling:
        """Returns how the tokens of an answer are chosen; a subclass may steer a model too small for its task."""
        return Sampling(request.temperature, request.top_p, request.seed)

    def _continue_text(self, request: GenerateRequest) -> Iterator[GenerateOutput]:
        """Continues a plain text: no template, no session."""
        model = self.engine.model
        ids = model.tokenizer(request.prompt, add_special_tokens=False)["input_ids"] or [model.tokenizer.eos_token_id]
        limit = request.max_tokens or self.policy.max_tokens
        if len(ids) + limit > model.max_tokens:
            message = f"a prompt of {len(ids)} tokens and an answer of {limit} exceed {model.max_tokens}"
            raise PromptTooLong(message, tokens=len(ids) + limit, most=model.max_tokens)
        yield AnswerStart("", len(ids), 0)
        answer = Answer(self.engine, SessionCache.empty(model).live, ids, limit, self.sampling(request))
        output = OutputProcessor(answer, replace(request, tools=()), "")
        yield from output.generate()
        self.counters.add(request.key, prompt_tokens=len(ids), completion_tokens=len(answer.ids))
        yield AnswerEnd(output.turn, output.reason, len(ids), 0, len(answer.ids), {}, output.stopped_by)

    def _read_head(self, request: GenerateRequest) -> int:
        """Reads the system prompt into a head, if it is long and no session has it; returns the tokens read."""
        head = list(takewhile(lambda turn: turn.role is Role.SYSTEM, request.turns))
        letters = sum(len(turn.text) for turn in head) + sum(len(json.dumps(tool)) for tool in request.tools)
        if not head or len(head) == len(request.turns) or letters < LETTERS * self.policy.head:
            return 0
        try:
            with self.registry.enter_head(request, len(head)) as entry:
                if entry is None:
                    return 0
                with entry.track_activity("reading"):
                    self._prefill(entry, head)
                entry.session.save()
                return entry.session.cache.tokens
        except (BadInput, Busy) as error:  # no template for it, or no room: the session reads its own
            log.info("the system prompt is not shared: %s", error)
            return 0

    def _prefill(self, entry: SessionEntry, turns: Sequence[Turn]) -> None:
        """Reads new turns: all at once where they fit, else exchange by exchange with compactions between them."""
        if not turns:
            return
        session, window = entry.session, self.engine.model.max_tokens
        sizes: Counter[int] = Counter()
        blocks = session.render_turns(turns)
        for block in blocks:
            sizes[block.origin.turn] += len(block)
        end = session.cache.live.next_position + sizes.total() + self._answer_room
        fits = end <= self.policy.trigger.force * window
        pieces = [(tuple(turns), sizes.total())]
        if not fits:
            pieces = split_turns(session.turns, turns, sizes, window // PIECES)
            check_fit(session, pieces, blocks)
        self.registry.reserve(entry, min(sizes.total(), window))
        for piece, tokens in pieces:
            if not fits:
                self._make_room(entry, tokens)
            append_turns(session, piece, self.policy.blocks)
            self.registry.update_turns(entry, session.turns)

    @property
    def _answer_room(self) -> int:
        """Positions that are kept free for an answer."""
        return min(self.policy.max_tokens, self.engine.model.max_tokens // PIECES)

    def _make_room(self, entry: SessionEntry, tokens: int) -> None:
        """Compacts before turns that would go beyond what the model reads. If that is not enough, reading raises."""
        end, window = entry.session.cache.live.next_position, self.engine.model.max_tokens
        if end + tokens + self._answer_room > self.policy.trigger.force * window:
            with suppress(BadInput):  # nothing may be compacted yet
                self.compactions.compact_for_room(entry)

    def _limit(self, session: Session, request: GenerateRequest) -> int:
        """Returns the most tokens of the answer: as asked for, as far as the model reads and the memory reaches."""
        model = self.engine.model
        room = (self.policy.memory - session.cache.nbytes) // full_bytes(model, 1)
        left = min(model.max_tokens - session.cache.live.next_position, room) - 16  # what opens and closes an answer
        if left < 1:
            raise PromptTooLong(
                f"the history takes all {model.max_tokens} positions that {self.model} reads, or all the memory for "
                "sessions; compact the session, or send less",
                tokens=session.cache.tokens,
                most=model.max_tokens,
            )
        return min(request.max_tokens or self.policy.max_tokens, left)

    def count(self, request: GenerateRequest) -> int:
        """Counts as `Host.count` says."""
        tokenizer = self.engine.model.tokenizer
        if request.prompt is not None:
            return len(tokenizer(request.prompt, add_special_tokens=False)["input_ids"])
        return len(render(Transcript(request.turns, meta={"tools": list(request.tools)}), tokenizer).ids)

    # -- what the owner of a session may do ------------------------------------------------------------------------

    def sessions(self, key: str) -> list[SessionRow]:
        """Lists as `Host.sessions` says."""
        rows = [self._row(entry) for entry in self.registry.list_entries(key) if not entry.head]
        return rows + [views.unreadable_row(*told) for told in self.registry.unreadable_of(key).items()]

    def _row(self, entry: SessionEntry) -> SessionRow:
        """Returns a row; one session that cannot be shown must not hide the others."""
        try:
            return views.row(entry, self.engine.model)
        except (LookupError, ValueError, TypeError, AttributeError) as error:
            log.warning("session %s cannot be shown: %s", entry.name, error)
            return views.unreadable_row(entry.name, str(error))

    def session(self, session: str, key: str) -> SessionDetail:
        """Describes as `Host.session` says."""
        entry = self.registry.get(session, key)
        if entry.busy and (resident := entry.resident):  # who works on it must not hide its picture
            return views.detail(entry, copy.copy(resident), self.engine.model)
        with self.registry.enter(session, key) as entry:
            return views.detail(entry, entry.session, self.engine.model)

    def has_other_keys(self, key: str) -> bool:
        """Looks as `Host.has_other_keys` says."""
        return any(entry.key != key for entry in self.registry.list_entries())

    def compact(self, session: str, key: str, options: Mapping[str, Any]) -> SessionRow:
        """Compacts as `Host.compact` says."""
        entry = self.registry.get(session, key)
        restart = bool(options.get("restart", self.policy.restart))
        request = CompactionRequest("asked", restart, apply_options(self.plan, options))
        self.compactions.compact_on_request(session, key, request)
        return views.row(entry, self.engine.model)

    def undo(self, session: str, key: str) -> SessionRow:
        """Undoes as `Host.undo` says."""
        with self.registry.enter(session, key) as entry:
            self.registry.reserve(entry, entry.session.cache.tokens)
            entry.session.undo()
            entry.used = time.time()
            return views.row(entry, self.engine.model)

    def expand(self, session: str, key: str, turn: int) -> RawTurn:
        """Returns a turn as `Host.expand` says."""
        entry = self.registry.get(session, key)
        if entry.busy and (resident := entry.resident):
            return views.raw(resident.turn(turn - 1), turn)
        with self.registry.enter(session, key) as entry:
            return views.raw(entry.session.turn(turn - 1), turn)

    def pin(self, session: str, key: str, turn: int, pinned: bool) -> SessionRow:
        """Pins as `Host.pin` says."""
        with self.registry.enter(session, key) as entry:
            entry.session.pin(turn - 1, pinned)
            entry.used = time.time()
            return views.row(entry, self.engine.model)

    def mark(self, session: str, key: str, mark: str, turn: int | None) -> SessionRow:
        """Marks as `Host.mark` says."""
        with self.registry.enter(session, key) as entry:
            if mark == "fork":
                return views.row(self.registry.fork(entry, turn), self.engine.model)
            if mark == "discard":
                entry.session.rewind(max(0, len(entry.session.turns) - 1))
                self.registry.update_turns(entry, entry.session.turns)
                entry.breaker = self.policy.breaker  # it counts turns, which are fewer now
            elif mark == "boundary":
                entry.marked, entry.used = True, time.time()
            else:
                raise BadOption(f"a mark is one of fork, discard and boundary, got {mark!r}")
            row = views.row(entry, self.engine.model)
        if mark == "boundary":
            self.compactions.submit(self.compactions.compact_if_due, session, key)
        return row

    def export(self, session: str, key: str) -> bytes:
        """Exports as `Host.export` says."""
        with self.registry.enter(session, key):
            return export.pack_session(self.registry.store, session)

    def take(self, data: bytes, key: str) -> SessionRow:
        """Imports as `Host.take` says."""
        name = export.unpack_session(self.registry.store, data, key, self.engine.model)
        try:
            self.registry.register(name)
            with self.registry.enter(name, key) as entry:
                views.detail(
                    entry, entry.session, self.engine.model
                )  # whatever can be asked of it must work before it is kept
                return views.row(entry, self.engine.model)
        except Exception as error:
            self.registry.reject(name)
            if isinstance(error, BadContext | TooLarge | Failed | MemoryError):
                raise
            raise BadContext(f"this is no exported session ({error}); export it again with GET …/export") from error

    def drop(self, session: str, key: str) -> None:
        """Drops as `Host.drop` says."""
        self.registry.drop(session, key)

    def stats(self, key: str | None = None) -> HostStats:
        """Counts as `Host.stats` says."""
        entries = self.registry.list_entries(key)
        caches = [session.cache for entry in entries if (session := entry.resident)]
        nbytes = sum(cache.nbytes for cache in caches)
        slots = round(nbytes / full_bytes(self.engine.model, 1))
        counts, seconds = self.counters.read(key)
        sessions = sum(not entry.head for entry in entries)
        return HostStats(sessions, len(caches), nbytes, slots, compaction_seconds=seconds, **counts)

    def close(self) -> None:
        """Closes as `Host.close` says."""
        self._closing.set()
        self.compactions.close()
        self.registry.save_all()

    def _collect(self) -> None:
        """Keeps the limits of the store, and drops the objects that no session needs any more."""
        try:
            for entry, reason in upkeep.evict(self.registry, self.policy.store):
                log.warning("session %s is dropped: %s", entry.name, reason)
                self.counters.add(entry.key, evicted=1)
            upkeep.collect_garbage(self.registry)
        except HoldfastError as error:  # the next start tries again
            log.warning("what sessions left behind is not cleared away: %s", error)


def open_host(engine: LocalEngine, plan: Plan, *, store: str = "", policy: HostPolicy | None = None) -> SessionHost:
    """Returns a host with its sessions under `store`: a folder, an fsspec URL, or "" for the user's Holdfast folder."""
    return SessionHost(engine, plan, Store(store or str(home() / "sessions")), policy)
