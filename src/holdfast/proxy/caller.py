"""A caller: the requests of one key on one wire, with a compactor and counts. No two share a history."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from typing import Any

from holdfast.adapters.compactor import Compactor, View
from holdfast.facts.fact import Fact
from holdfast.proxy.breakpoints import KEY, Marks, lift, place, put_back
from holdfast.proxy.options import Options
from holdfast.proxy.wires import Body, Wire
from holdfast.text.rewrite import Rewritten
from holdfast.transcript.draft import turn_size
from holdfast.transcript.token_estimate import estimate_tokens
from holdfast.transcript.turn import Turn

MARK = f'"{KEY}"'.encode()
_REFUSED = 64  # histories that the upstream did not take, remembered at once
_SHORT = 2.0  # seconds for reading a history again, without compacting it


@dataclass(frozen=True)
class Failure:
    """The reason that a request went out without a compaction."""

    kind: str
    words: str = ""
    """May quote what was said in the session."""


@dataclass(frozen=True)
class OutgoingRequest:
    """A request as it is sent up, and what was done for it."""

    body: bytes | None = None
    """None: as it came."""
    turns: tuple[Turn, ...] = ()
    before: int = 0
    """Tokens of the history as it came."""
    after: int = 0
    compacted: bool = False
    """True if a compaction was made for this very request."""
    lost: tuple[Fact, ...] = ()
    failure: Failure | None = None


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

    @property
    def saved(self) -> int:
        return self.tokens_before - self.tokens_after

    def add(self, outgoing: OutgoingRequest) -> None:
        """Counts a request."""
        self.requests += 1
        self.tokens_before += outgoing.before
        self.tokens_after += outgoing.after
        self.compactions += outgoing.compacted
        self.failures += outgoing.failure is not None


@dataclass
class Caller:
    """One key on one wire; prepares its requests one at a time."""

    wire: Wire
    options: Options
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
        self._left_alone: deque[tuple[Turn, ...]] = deque(maxlen=_REFUSED)
        self._turn = asyncio.Lock()
        self._running: set[asyncio.Task[OutgoingRequest]] = set()

    async def prepare(self, data: bytes, pool: Executor) -> OutgoingRequest:
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

    async def _prepare_in_turn(self, data: bytes, pool: Executor) -> OutgoingRequest:
        async with self._turn:
            return await asyncio.get_running_loop().run_in_executor(pool, self.compact_body, data)

    def compact_body(self, data: bytes) -> OutgoingRequest:
        """Returns what to send for a body. Raises nothing: what cannot be read or written goes as it came.

        Not for several threads at once.
        """
        self._failures.clear()
        self._done.clear()
        outgoing = self._rewrite_or_pass(data, self._compactor.view)
        done = self._done[-1] if self._done else None
        lost = done.report.lost if done and done.report else ()
        failure = outgoing.failure or (_failure(self._failures[-1]) if self._failures else None)
        return replace(outgoing, compacted=done is not None, lost=lost, failure=failure)

    def leave_alone(self, outgoing: OutgoingRequest) -> None:
        """Passes on the history of a request as it comes from now on: the upstream refused what was made of it."""
        self._left_alone.append(outgoing.turns)
        self.counts.refused += 1

    def _repeat(self, data: bytes) -> OutgoingRequest:
        """Returns what to send for a body if nothing is compacted now."""
        return self._rewrite_or_pass(data, self._compactor.standing)

    def _rewrite_or_pass(self, data: bytes, compact: Callable[[Sequence[Turn]], View]) -> OutgoingRequest:
        try:
            return self._rewrite(data, compact)
        except Exception as error:
            return OutgoingRequest(failure=Failure(type(error).__name__, str(error)))

    def _rewrite(self, data: bytes, compact: Callable[[Sequence[Turn]], View]) -> OutgoingRequest:
        body, marks = loads(data), Marks()
        if MARK in data:
            body = {**body, self.wire.field: lift(body.get(self.wire.field), marks)}
        history = self.wire.read(body)
        if history is None:
            return OutgoingRequest()
        turns = history.turns
        before = _tokens(turns)
        if any(turns[: len(left)] == left for left in self._left_alone):
            return OutgoingRequest(None, turns, before, before)
        view = compact(turns)
        rewritten = len(view.pieces) != len(turns) or any(piece.writer for piece in view.pieces)
        after = _tokens(piece.turn for piece in view.pieces) if rewritten else before
        if self.options.dry_run or (self._failures and not rewritten):
            return OutgoingRequest(None, turns, before, after)
        items = history.write(view) if rewritten else body[self.wire.field]
        back = put_back(items, marks) if marks else items
        return OutgoingRequest(self._write_body(body, back, rewritten), turns, before, after)

    def _write_body(self, body: Body, items: list[Any], rewritten: bool) -> bytes | None:
        """Returns the body with these messages and with breakpoints; None if it is as it was."""
        changed = {**body, self.wire.field: items}
        with_marks = place(changed) if self.options.breakpoints and self.wire.name == "anthropic" else changed
        return dumps(with_marks) if rewritten or with_marks is not changed else None


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
