"""A caller: the requests of one key on one wire, with a compactor, bills and counts. No two share a history."""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from holdfast.adapters.compactor import Compactor, View
from holdfast.cost.usage import Usage, sum_usage
from holdfast.facts.fact import Fact
from holdfast.proxy.bill import Bill, Tariff
from holdfast.proxy.breakpoints import KEY, Marks, lift, place, put_back
from holdfast.proxy.journal import Journal
from holdfast.proxy.options import Options
from holdfast.proxy.recent_histories import RecentHistories
from holdfast.proxy.summary_requests import asks_for_summary
from holdfast.proxy.tariffs import Tariffs
from holdfast.proxy.wires import Body, History, Wire, instructions_of
from holdfast.text.rewrite import Rewritten
from holdfast.transcript.draft import turn_size
from holdfast.transcript.token_estimate import estimate_tokens
from holdfast.transcript.turn import Turn

MARK = f'"{KEY}"'.encode()
HOURLY = b'"1h"'
_BILLS = 500  # sessions whose bills are remembered; the one used longest ago goes first
_REFUSED = 64  # histories that the upstream did not take, remembered at once
_SHORT = 2.0  # seconds for reading a history again, without compacting it


@dataclass(frozen=True)
class Failure:
    """The reason that a request went out without a compaction."""

    kind: str
    words: str = ""
    """May quote what was said in the session."""


@dataclass(frozen=True)
class IncomingRequest:
    """A request as it came."""

    data: bytes
    """Its body, no longer compressed."""
    path: str = ""
    lookup: Callable[[str], str] = field(default=lambda _: "")
    """Returns the words that tell the agent how to read a turn of the session with this id."""
    at: float = field(default_factory=time.time)
    """Seconds since the epoch."""


@dataclass(frozen=True)
class OutgoingRequest:
    """A request as it is sent up, and what was done for it."""

    body: bytes | None = None
    """None: as it came."""
    instead: bytes | None = None
    """The body to send if the upstream does not take the request as it came: the history as it stands compacted."""
    turns: tuple[Turn, ...] = ()
    sent: tuple[Turn, ...] = ()
    """The turns as they go up."""
    session: str = ""
    """The id of the session in the journal."""
    before: int = 0
    """Tokens of the history as it came."""
    after: int = 0
    compacted: bool = False
    """True if a compaction was made for this very request."""
    lost: tuple[Fact, ...] = ()
    over: int = 0
    """Tokens above the budget, if this request's compaction could not keep to it."""
    notes: tuple[str, ...] = ()
    """Of this request's compaction."""
    passed: str = ""
    """The reason why the request passed as it came, in a word or two; empty if it was looked at."""
    failure: Failure | None = None
    tariff: Tariff | None = None
    at: float = 0.0
    compactor: Usage = field(default_factory=Usage)
    """Tokens that the compactor's own model took."""


@dataclass
class Counts:
    """Of all requests so far."""

    requests: int = 0
    tokens_before: int = 0
    tokens_after: int = 0
    compactions: int = 0
    failures: int = 0
    refused: int = 0
    """Compactions that the upstream refused where it took the original."""
    over: int = 0
    """Compactions above their budget."""
    summaries: int = 0
    """The agents' own requests for a summary, which passed as they came."""
    money: float = 0.0
    """USD for what was sent, where the price of the model is known."""
    money_passing: float = 0.0
    """USD for the same requests as they came."""

    @property
    def saved(self) -> int:
        return self.tokens_before - self.tokens_after

    @property
    def money_saved(self) -> float:
        """USD; below 0 where compactions cost more than they saved."""
        return self.money_passing - self.money

    def add(self, outgoing: OutgoingRequest) -> None:
        """Counts a request."""
        self.requests += 1
        self.tokens_before += outgoing.before
        self.tokens_after += outgoing.after
        self.compactions += outgoing.compacted
        self.failures += outgoing.failure is not None
        self.over += outgoing.over > 0
        self.summaries += outgoing.passed == SUMMARY


SUMMARY = "summary"
"""`OutgoingRequest.passed` of the agent's own request for a summary."""


@dataclass
class Caller:
    """One key on one wire; prepares its requests one at a time."""

    wire: Wire
    options: Options
    journal: Journal = field(default_factory=Journal)
    tariffs: Tariffs | None = None
    key: str = "none"
    """The digest of the key."""
    asked: set[str] = field(default_factory=set)
    """Sessions that are compacted with their next request, because their agent asked for it."""
    counts: Counts = field(default_factory=Counts)

    def __post_init__(self) -> None:
        options = self.options
        self._failures: list[str] = []
        self._done: list[Rewritten] = []
        self._compactor = Compactor(
            options.plan,
            options.trigger,
            options.window,
            options.chat,
            on_failure=self._failures.append,
            on_compaction=self._done.append,
        )
        self._recent = RecentHistories()
        self._bills: dict[str, Bill] = {}  # the one used last stands last
        self._left_alone: deque[tuple[Turn, ...]] = deque(maxlen=_REFUSED)
        self._turn = asyncio.Lock()
        self._running: set[asyncio.Task[OutgoingRequest]] = set()

    async def prepare(self, data: IncomingRequest, pool: Executor) -> OutgoingRequest:
        """Returns what to send for a body, made on a thread of the pool; as it stood before if that takes too long."""
        task = asyncio.ensure_future(self._prepare_in_turn(data, pool))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        loop, patience = asyncio.get_running_loop(), self.options.patience
        try:
            # The compaction goes on behind a time-out, and stands for the request after this one.
            return await asyncio.wait_for(asyncio.shield(task), patience)
        except TimeoutError:
            failure = Failure("TimeoutError", f"no compaction within {patience:g} s")
        try:
            standing = await asyncio.wait_for(loop.run_in_executor(pool, self._repeat, data), min(patience, _SHORT))
        except TimeoutError:
            return OutgoingRequest(failure=failure)
        return replace(standing, body=standing.body if standing.after < standing.before else None, failure=failure)

    async def _prepare_in_turn(self, data: IncomingRequest, pool: Executor) -> OutgoingRequest:
        async with self._turn:
            return await asyncio.get_running_loop().run_in_executor(pool, self.compact_request, data)

    def compact_body(self, data: bytes) -> OutgoingRequest:
        """Returns what to send for a body, as `compact_request` does."""
        return self.compact_request(IncomingRequest(data))

    def compact_request(self, data: IncomingRequest) -> OutgoingRequest:
        """Returns what to send for a request. Raises nothing: what cannot be read or written goes as it came.

        Not for several threads at once.
        """
        self._failures.clear()
        self._done.clear()
        outgoing = self._rewrite_or_pass(data, self._view)
        failure = outgoing.failure or (_failure(self._failures[-1]) if self._failures else None)
        outgoing = replace(outgoing, failure=failure)
        return _with_compaction(outgoing, self._done[-1]) if self._done else outgoing

    def charge(self, outgoing: OutgoingRequest) -> None:
        """Adds a request that the upstream took to the bill of its session."""
        if outgoing.tariff is None or not outgoing.session:
            return
        bill = self.bill(outgoing.session)
        spent, passing = bill.spent, bill.passing
        bill.charge(outgoing.sent, outgoing.turns, outgoing.tariff, outgoing.at, outgoing.compactor)
        self.counts.money += bill.spent - spent
        self.counts.money_passing += bill.passing - passing

    def bill(self, session: str) -> Bill:
        """Returns the bill of a session."""
        bill = self._bills.pop(session, None) or Bill()
        self._bills[session] = bill
        if len(self._bills) > _BILLS:
            del self._bills[next(iter(self._bills))]
        return bill

    def leave_alone(self, outgoing: OutgoingRequest) -> None:
        """Passes on the history of a request as it comes from now on: the upstream refused what was made of it."""
        self._left_alone.append(outgoing.turns)
        self.counts.refused += 1

    def _repeat(self, data: IncomingRequest) -> OutgoingRequest:
        """Returns what to send for a request if nothing is compacted now."""
        return self._rewrite_or_pass(data, self._standing)

    def _rewrite_or_pass(self, data: IncomingRequest, compact: Compact) -> OutgoingRequest:
        try:
            return self._rewrite(data, compact)
        except Exception as error:
            return OutgoingRequest(failure=Failure(type(error).__name__, str(error)), at=data.at)

    def _rewrite(self, data: IncomingRequest, compact: Compact) -> OutgoingRequest:
        body, marks = loads(data.data), Marks()
        if MARK in data.data:
            body = {**body, self.wire.field: lift(body.get(self.wire.field), marks)}
        history = self.wire.read(body)
        if history is None:
            return OutgoingRequest(passed="no history", at=data.at)
        turns = history.turns
        before = _tokens(turns)
        tariff = (
            self.tariffs.tariff(self.wire, body, data.path, MARK in data.data, HOURLY in data.data)
            if self.tariffs
            else None
        )
        raw = OutgoingRequest(turns=turns, sent=turns, before=before, after=before, tariff=tariff, at=data.at)
        if any(turns[: len(left)] == left for left in self._left_alone):
            return raw
        if asks_for_summary(instructions_of(self.wire, body), turns):
            standing = self._put(raw, body, history, self._compactor.standing(turns), marks)
            shorter = standing.body if standing.after < before else None
            return replace(
                raw, instead=shorter, passed=SUMMARY, session=self.journal.note(self.key, self.wire.name, turns)
            )
        view, session = compact(data, turns, tariff)
        return self._put(replace(raw, session=session), body, history, view, marks)

    def _put(self, raw: OutgoingRequest, body: Body, history: History, view: View, marks: Marks) -> OutgoingRequest:
        """Returns the request with the turns of a view."""
        rewritten = len(view.pieces) != len(raw.turns) or any(piece.writer for piece in view.pieces)
        made = replace(raw, sent=view.turns, after=_tokens(view.turns)) if rewritten else raw
        if self.options.dry_run or (self._failures and not rewritten):
            return made
        items = history.write(view) if rewritten else body[self.wire.field]
        back = put_back(items, marks) if marks else items
        return replace(made, body=self._write_body(body, back, rewritten))

    def _view(self, data: IncomingRequest, turns: tuple[Turn, ...], tariff: Tariff | None) -> tuple[View, str]:
        """Returns the history as it is to be sent, compacted if that is due and pays, and the id of its session."""
        moving = self._recent.moving_turns(turns)
        session = self.journal.note(self.key, self.wire.name, turns[: len(turns) - moving])
        decide = None
        if tariff and self.options.planned:
            bill, trigger = self.bill(session), self._compactor.trigger
            decide = partial(bill.frozen_pieces, trigger=trigger, tariff=tariff, now=data.at)
        lookup = data.lookup(session)
        force = session in self.asked
        self.asked.discard(session)
        decide = None if force else decide
        return self._compactor.view(turns, force, moving=moving, lookup=lookup, decide=decide), session

    def _standing(self, data: IncomingRequest, turns: tuple[Turn, ...], tariff: Tariff | None) -> tuple[View, str]:
        return self._compactor.standing(turns), ""

    def _write_body(self, body: Body, items: list[Any], rewritten: bool) -> bytes | None:
        """Returns the body with these messages and with breakpoints; None if it is as it was."""
        changed = {**body, self.wire.field: items}
        with_marks = place(changed) if self.options.breakpoints and self.wire.name == "anthropic" else changed
        return dumps(with_marks) if rewritten or with_marks is not changed else None


Compact = Callable[[IncomingRequest, tuple[Turn, ...], Tariff | None], tuple[View, str]]
"""Returns the history of a request as it is to be sent, and the id of its session."""


def _with_compaction(outgoing: OutgoingRequest, done: Rewritten) -> OutgoingRequest:
    """Returns the request with what its compaction took and lost."""
    usages = [Usage(reply.tokens_in, output=reply.tokens_out) for reply in done.replies]
    return replace(
        outgoing,
        compacted=True,
        lost=done.report.lost if done.report else (),
        over=max(0, done.tokens - done.budget),
        notes=done.notes,
        compactor=sum_usage(usages),
    )


def _failure(words: str) -> Failure:
    """Returns what a compactor reported, which is an error's name and words, or words alone."""
    name = words.partition(":")[0]
    return Failure(name if name.isidentifier() else "NotCompacted", words)


def loads(data: bytes) -> Body:
    """Returns a body. Raises ValueError or RecursionError for what is no JSON object.

    Halves of UTF-16 pairs, which no encoder takes, become U+FFFD.
    """
    value: Any = json.loads(data.decode(), parse_constant=_no_constant)
    if not isinstance(value, dict):
        raise ValueError("the body is no JSON object")
    if b"\\ud" in data or b"\\uD" in data:
        text = json.dumps(value, ensure_ascii=False)
        value = json.loads(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))
    return dict(value)


def dumps(body: Body) -> bytes:
    """Returns the bytes of a body, the same for the same value. Raises ValueError for a number that JSON lacks."""
    return json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _tokens(turns: Iterable[Turn]) -> int:
    return sum(turn_size(turn, estimate_tokens) for turn in turns)
