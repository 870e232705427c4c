"""Compactions of a server's sessions: when one is due, and one at a time beside the answers.

A compaction is prepared on a snapshot while its session and all others go on, since the model is shared step by step.
The session is locked only for the snapshot and for the moment in which the result is taken over.

With `accept` a compaction in the background is first scored on the steps that the agent took meanwhile. One that
retains too little of them is prepared again at half the ratio, and then left; the log says so.
"""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from threading import Event, Lock, Thread
from typing import Any

from holdfast.compaction.plan import Plan
from holdfast.errors import BadInput, Conflict, Failed, HoldfastError
from holdfast.mementos.strategy import MementoStrategy, write_memento
from holdfast.server.sessions.counters import Counters
from holdfast.server.sessions.entry import SessionEntry
from holdfast.server.sessions.registry import SessionRegistry
from holdfast.session.acceptance import score_steps
from holdfast.session.cache import PreparedCompaction
from holdfast.session.session import Session
from holdfast.session.trigger import CompactionReason, SessionStatus, Trigger, due
from holdfast.transcript.turn import Role

log = logging.getLogger("holdfast.server")
LOOK = 1.0  # seconds between looks at who rests
TRIES = 3
"""Ratios at which a compaction is tried, each half of the one before."""
LEAST_RATIO = 2.0


@dataclass(frozen=True)
class CompactionRequest:
    """One compaction of one session."""

    reason: str
    restart: bool
    plan: Plan | None = None
    """None takes the session's own."""
    target: int | None = None
    """Slots to come down to, where so much may go."""
    forced: bool = False
    """The window is nearly full: the compaction is taken over whatever it loses."""


class NotAccepted(Failed):
    """Every compaction that was prepared loses too much of the steps that the agent took; `evidence` says how much."""

    def __init__(self, evidence: Mapping[str, Any]) -> None:
        self.evidence = evidence
        scores = ", ".join(f"{one['retained']:.3f} at {one['ratio']:g}x" for one in evidence["tries"])
        super().__init__(f"a compaction must retain {evidence['accept']:g} of the newest steps, and retains {scores}")


class CompactionQueue:
    """Compacts sessions in the background where the trigger says so, and at once where somebody asks or waits for it.

    At most one compaction at a time is prepared beside the answers, because each needs memory of its own. One that a
    request waits for inside its session does not queue.
    """

    def __init__(
        self,
        registry: SessionRegistry,
        trigger: Trigger,
        restart: bool,
        counters: Counters,
        accept: float | None = None,
        mementos: MementoStrategy | None = None,
    ) -> None:
        """Takes `accept`, the share of the agent's steps that a background compaction must retain, and who writes
        mementos, if that is how sessions are compacted.
        """
        self.registry, self.trigger, self.restart, self.counters = registry, trigger, restart, counters
        self.accept, self.mementos = accept, mementos
        self._one_at_a_time, self._closing = Lock(), Event()
        self._background = ThreadPoolExecutor(1, "compact")
        if trigger.idle is not None:
            Thread(target=self._watch, name="idle", daemon=True).start()

    def submit(self, work: Callable[..., None], *of: str) -> None:
        """Runs work in the background, behind what is there already. Does nothing once the queue is closed."""
        with suppress(RuntimeError):  # the server is shutting down
            self._background.submit(work, *of)

    def close(self) -> None:
        """Waits for the compaction that runs now, and drops the others."""
        self._closing.set()
        self._background.shutdown(wait=True, cancel_futures=True)

    def find_reason(self, entry: SessionEntry, idle: float = 0.0) -> CompactionReason | None:
        """Returns why a session in memory is to be compacted now, after `idle` seconds of rest; None if it is not."""
        session = entry.session
        answered = {turn.call_id for turn in session.turns if turn.role is Role.TOOL}
        last = session.turns[-1] if session.turns else None
        # a call that is open is the newest exchange: where that stays verbatim, the time while tools run is the best
        waiting = last.calls if last and not session.plan.policy.keep_recent else ()
        status = SessionStatus(
            turns=len(session.turns),
            held=round(session.cache.slots),
            compactable=session.compactable,
            verbatim=sum(map(len, session.cache.blocks[session.cache.tail :])),
            window=session.engine.model.max_tokens,
            idle_seconds=idle,
            open_calls=sum(call.id not in answered for call in waiting),
            marked=entry.marked,
            breaker=entry.breaker,
        )
        return due(status, self.trigger)

    def submit_if_due(self, entry: SessionEntry) -> None:
        """Queues the compaction of a session in memory, if it is due."""
        if self.find_reason(entry):
            self.submit(self.compact_if_due, entry.name, entry.key)

    def compact_if_due(self, name: str, key: str, idle: float = 0.0) -> None:
        """Compacts a session beside its answers, if it is still due. One that fails is as it was, and counted."""

        def request(entry: SessionEntry) -> CompactionRequest | None:
            reason = self.find_reason(entry, idle)
            return self._request(reason) if reason and not self._closing.is_set() else None

        try:
            with self._one_at_a_time:
                self._compact_beside(name, key, request)
        except HoldfastError as error:
            log.info("session %s is not compacted: %s", name, error)
        except Exception:  # nobody waits for it, and the thread has others to look after
            log.exception("session %s is not compacted", name)

    def compact_on_request(self, name: str, key: str, request: CompactionRequest) -> None:
        """Compacts a session because its owner asks for it. Raises what the compaction raises.

        If the session goes another way meanwhile, it is compacted once more, and waits.
        """
        with self._one_at_a_time:
            self._compact_beside(name, key, lambda _: request, insist=True)

    def compact_for_room(self, entry: SessionEntry) -> None:
        """Compacts a session that the caller has entered, because the next turns need room. Raises BadInput if nothing
        may be compacted, and what the compaction raises."""
        self.compact_entered(
            entry, self._request(CompactionReason("force", "the next turns would not fit the window", None))
        )

    def compact_entered(self, entry: SessionEntry, request: CompactionRequest) -> None:
        """Compacts a session that the caller has entered. Raises what the compaction raises."""
        with self._track(entry, entry.session), entry.track_activity("compacting"):
            self._compact(entry.session, request)

    def _compact(self, session: Session, request: CompactionRequest) -> None:
        if self.mementos:
            write_memento(session, replace(self.mementos, restart=request.restart), request.reason)
        else:
            session.compact(request.plan, restart=request.restart, target=request.target, why=request.reason)

    def _request(self, reason: CompactionReason) -> CompactionRequest:
        return CompactionRequest(reason.text, self.restart, target=reason.target, forced=reason.kind == "force")

    def _compact_beside(
        self, name: str, key: str, choose: Callable[[SessionEntry], CompactionRequest | None], insist: bool = False
    ) -> None:
        """Prepares on a snapshot, then takes over. Raises Conflict if the session went another way meanwhile; with
        `insist` it is then locked and compacted again."""
        with self.registry.enter(name, key) as entry:
            session, request = entry.session, choose(entry)
            snapshot = copy.copy(session)  # a session holds values, and its changes put others in their place
        if request is None:
            return
        with self._track(entry, session), entry.track_activity("compacting"):
            if self.mementos:  # it is read behind all turns, so that nothing may come between
                with self.registry.enter(name, key):
                    self._compact(entry.session, request)
                return
            if insist or self.accept is None:
                prepared = snapshot.prepare(request.plan, restart=request.restart, target=request.target)
            else:
                prepared = self._prepare_accepted(snapshot, session, request, self.accept)
            try:
                with self.registry.enter(name, key):
                    if entry.resident is not session:
                        raise Conflict("the session left memory while it was being compacted")
                    session.adopt(prepared, request.reason)
            except Conflict:
                if not insist:
                    raise
                with self.registry.enter(name, key):
                    self._compact(entry.session, request)

    def _prepare_accepted(
        self, snapshot: Session, session: Session, request: CompactionRequest, accept: float
    ) -> PreparedCompaction:
        """Prepares a compaction that retains `accept` of the agent's steps. Raises NotAccepted if none of the ratios
        does, unless the window demands it: then the gentlest is taken."""
        tries: list[dict[str, Any]] = []
        for plan, target in _gentler(request.plan or snapshot.plan, request.target):
            prepared = snapshot.prepare(plan, restart=request.restart, target=target)
            score = score_steps(prepared, session.cache, accept)
            tries.append({"ratio": plan.ratio, "slots": round(prepared.after.slots), **(score.row() if score else {})})
            if score is None or score.retained >= accept:
                break
        else:
            if not request.forced:
                raise NotAccepted({"accept": accept, "tries": tries})
        evidence = {**prepared.evidence, "accept": {"accept": accept, "forced": request.forced, "tries": tries}}
        return prepared._replace(evidence=evidence)

    @contextmanager
    def _track(self, entry: SessionEntry, session: Session) -> Iterator[None]:
        """Tells the breaker and the counters of a compaction, unless there was nothing to compact."""
        began, before = time.perf_counter(), round(session.cache.slots)
        try:
            yield
        except BadInput:
            entry.used = time.time()
            raise
        except NotAccepted as error:
            with entry.lock:
                if entry.resident is session:
                    session.reject(error.evidence, "the steps since would be less likely over it")
            self.counters.add(entry.key, rejected=1, compaction_seconds=time.perf_counter() - began)
            entry.breaker, entry.used = entry.breaker.after(len(session.turns), before, None), time.time()
            raise
        except Exception:
            self.counters.add(entry.key, failures=1)
            entry.breaker, entry.used = entry.breaker.after(len(session.turns), before, None), time.time()
            raise
        left = min(before, round((entry.resident or session).cache.slots))
        self.counters.add(entry.key, compactions=1, compaction_seconds=time.perf_counter() - began)
        entry.breaker, entry.used = entry.breaker.after(len(session.turns), before, left), time.time()
        entry.marked = False

    def _watch(self) -> None:
        while not self._closing.wait(LOOK):
            for entry in self.registry.list_entries():
                idle = time.time() - entry.used
                if idle >= (self.trigger.idle or 0) and self._is_idle(entry, idle):
                    self.compact_if_due(entry.name, entry.key, idle)

    def _is_idle(self, entry: SessionEntry, idle: float) -> bool:
        """Returns true if nobody works on a session that is to be compacted. Looking at it does not count as use."""
        if not entry.lock.acquire(blocking=False):
            return False
        try:
            idle_one = entry.resident is not None and not entry.busy and not entry.head
            return idle_one and self.find_reason(entry, idle) is not None
        finally:
            entry.lock.release()


def _gentler(plan: Plan, target: int | None) -> Iterator[tuple[Plan, int | None]]:
    """Yields a plan with its target, and then gentler ones, which come down as far as they come."""
    yield plan, target
    for halving in range(1, TRIES):
        if plan.ratio / 2**halving >= LEAST_RATIO:
            yield replace(plan, ratio=plan.ratio / 2**halving), None
