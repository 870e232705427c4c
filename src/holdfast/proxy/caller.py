"""What the requests of one key on one wire share: a compactor and counts. Histories of different keys never meet."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from typing import Any

from holdfast.adapters.compactor import Compactor, View
from holdfast.facts.session_facts import Fact
from holdfast.proxy.breakpoints import KEY, Marks, lifted, place, put_back
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
    """Why a request went out without a compaction."""

    kind: str
    words: str = ""
    """May quote what was said in the session."""


@dataclass(frozen=True)
class Prepared:
    """A request as it is to be sent, and what was done for it."""

    body: bytes | None = None
    """None: as it came."""
    turns: tuple[Turn, ...] = ()
    before: int = 0
    """Tokens of the history as it came."""
    after: int = 0
    compacted: bool = False
    """Whether a compaction was made for this very request."""
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

    def add(self, prepared: Prepared) -> None:
        self.requests += 1
        self.tokens_before += prepared.before
        self.tokens_after += prepared.after
        self.compactions += prepared.compacted
        self.failures += prepared.failure is not None


@dataclass
class Tenant:
    """Prepares one request at a time."""

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
        self._running: set[asyncio.Task[Prepared]] = set()

    async def prepared(self, data: bytes, pool: Executor) -> Prepared:
        """What to send for a body, made on a thread of the pool; as it stood before where that takes too long."""
        task = asyncio.ensure_future(self._in_turn(data, pool))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        loop, patience = asyncio.get_running_loop(), self.options.patience
        try:
            # The compaction goes on behind a time-out, and stands for the request after this one.
            return await asyncio.wait_for(asyncio.shield(task), patience)
        except TimeoutError:
            failure = Failure("TimeoutError", f"no compaction within {patience:g} s")
        try:
            held = await asyncio.wait_for(loop.run_in_executor(pool, self._held, data), min(patience, _SHORT))
        except TimeoutError:
            return Prepared(failure=failure)
        return replace(held, body=held.body if held.after < held.before else None, failure=failure)

    async def _in_turn(self, data: bytes, pool: Executor) -> Prepared:
        async with self._turn:
            return await asyncio.get_running_loop().run_in_executor(pool, self.prepare, data)

    def prepare(self, data: bytes) -> Prepared:
        """What to send for a body. Raises nothing: what cannot be read or written goes as it came. One at a time."""
        self._failures.clear()
        self._done.clear()
        made = self._prepare(data, self._compactor.view)
        done = self._done[-1] if self._done else None
        lost = done.report.lost if done and done.report else ()
        failure = made.failure or (_failure(self._failures[-1]) if self._failures else None)
        return replace(made, compacted=done is not None, lost=lost, failure=failure)

    def leave_alone(self, prepared: Prepared) -> None:
        """From now on the history that a request carried goes as it comes: what was made of it is refused upstream."""
        self._left_alone.append(prepared.turns)
        self.counts.refused += 1

    def _held(self, data: bytes) -> Prepared:
        return self._prepare(data, self._compactor.standing)

    def _prepare(self, data: bytes, compact: Callable[[Sequence[Turn]], View]) -> Prepared:
        try:
            return self._made(data, compact)
        except Exception as error:
            return Prepared(failure=Failure(type(error).__name__, str(error)))

    def _made(self, data: bytes, compact: Callable[[Sequence[Turn]], View]) -> Prepared:
        body, marks = loads(data), Marks()
        if MARK in data:
            body = {**body, self.wire.field: lifted(body.get(self.wire.field), marks)}
        history = self.wire.read(body)
        if history is None:
            return Prepared()
        turns = history.turns
        before = _tokens(turns)
        if any(turns[: len(left)] == left for left in self._left_alone):
            return Prepared(None, turns, before, before)
        view = compact(turns)
        rewritten = len(view.pieces) != len(turns) or any(piece.writer for piece in view.pieces)
        after = _tokens(piece.turn for piece in view.pieces) if rewritten else before
        if self.options.dry_run or (self._failures and not rewritten):
            return Prepared(None, turns, before, after)
        items = history.write(view) if rewritten else body[self.wire.field]
        back = put_back(items, marks) if marks else items
        return Prepared(self._written(body, back, rewritten), turns, before, after)

    def _written(self, body: Body, items: list[Any], rewritten: bool) -> bytes | None:
        """The body with these messages and with breakpoints; None where it is what it was."""
        made = {**body, self.wire.field: items}
        marked = place(made) if self.options.breakpoints and self.wire.name == "anthropic" else made
        return dumps(marked) if rewritten or marked is not made else None


def _failure(words: str) -> Failure:
    """What a compactor reports: an error's name and words, or words alone."""
    name = words.partition(":")[0]
    return Failure(name if name.isidentifier() else "NotCompacted", words)


def loads(data: bytes) -> Body:
    """A body. Raises ValueError or RecursionError for what is no JSON object.

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
    """The bytes of a body; the same for the same value. Raises ValueError for a number that JSON does not have."""
    return json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _tokens(turns: Iterable[Turn]) -> int:
    return sum(turn_size(turn, estimate_tokens) for turn in turns)
