"""The memory of a live session, a value: compact slots in front, the newest turns verbatim behind them.

frontier (segments)                          tail (blocks, in the memory's own dense tail)
[system][task][slots][user turn][slots] ...  [assistant][result][assistant] ...
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from holdfast.blocks.block import Block
from holdfast.compaction.partition import runs
from holdfast.compaction.plan import Plan
from holdfast.compaction.walk import StartingMemory, compact_in_memory
from holdfast.context.compress_positions import compress_positions, find_slack
from holdfast.context.recompact import find_cells, tighten
from holdfast.context.segments import CompactContext, Segment, StateSegment, token_segment
from holdfast.context.surgery import keep_pairs, shift_segment
from holdfast.engine.kv_context import KVContext, PrefillProgress, ReadScorer, check_retains
from holdfast.engine.local import LocalEngine
from holdfast.errors import BadInput, BadOption, Conflict
from holdfast.model.load import Model, full_bytes
from holdfast.progress import Progress, quiet
from holdfast.session.retained_states import RetainedStatesEngine

FULL_SHARE = 0.75
"""Share of the positions that a model reads, above which a compaction compresses the positions of the past."""
FREE_SHARE = 0.5
"""Share of them to which it compresses them."""


@dataclass(frozen=True)
class SessionCache:
    """The memory of a session, and the segments and blocks that it consists of."""

    live: KVContext
    """The whole memory."""
    frontier: KVContext
    """The memory before the tail; all of it slots."""
    segments: tuple[Segment, ...] = ()
    """The segments of `frontier`."""
    blocks: tuple[Block, ...] = ()
    """All blocks of the session."""
    tail: int = 0
    """Index of the first block that is in the tail."""
    hidden: tuple[Tensor, ...] = ()
    """Hidden states of the tail's tokens, `[n, d]` each."""

    @classmethod
    def empty(cls, model: Model, scorer: ReadScorer | None = None) -> SessionCache:
        """Returns a memory of nothing; a `scorer` scores what is read, so that a compaction needs no pass for it."""
        live = KVContext(model)
        live.scorer = scorer
        return cls(live, KVContext(model))

    def start_behind(self, frontier: KVContext, segments: tuple[Segment, ...], tail: int) -> SessionCache:
        """Returns a memory of `frontier` alone, which holds the blocks up to `tail`; more is scored as it is here."""
        live = frontier.fork()
        live.scorer = self.live.scorer
        return SessionCache(live, frontier, segments, self.blocks[:tail], tail)

    @property
    def model(self) -> Model:
        return self.live.model

    @property
    def tokens(self) -> int:
        """Tokens of the whole session."""
        return self.blocks[-1].origin.tokens[1] if self.blocks else 0

    @property
    def slots(self) -> float:
        """KV pairs per layer and head, on average."""
        return self.nbytes / full_bytes(self.model, 1)

    @property
    def nbytes(self) -> int:
        """KV bytes that the model reads."""
        return self.live.nbytes

    @property
    def footprint(self) -> int:
        """Bytes of memory: those, the un-rotated slots for stored contexts, the tail's hidden states and its scores."""
        slots = (layer.nbytes for s in self.segments if isinstance(s, StateSegment) for layer in s.layers)
        return self.nbytes + sum(slots) + sum(part.nbytes for part in self.hidden) + self.live.score_nbytes

    def extend(self, live: KVContext, blocks: Sequence[Block], hidden: Sequence[Tensor]) -> SessionCache:
        """Returns the cache after `blocks` were read into `live`."""
        return replace(self, live=live, blocks=(*self.blocks, *blocks), hidden=(*self.hidden, *hidden))

    @torch.no_grad()
    def read(self, blocks: Sequence[Block], report: PrefillProgress | None = None) -> SessionCache:
        """Reads `blocks` behind everything; returns the cache after it."""
        ids, live = [i for block in blocks for i in block.ids], self.live.fork()
        return self.extend(live, blocks, (live.feed(ids, report=report),)) if ids else self

    def crop(self, blocks: int) -> SessionCache:
        """Returns the cache of the first `blocks` blocks. Raises BadInput if later ones are no longer verbatim."""
        if blocks < self.tail:
            raise BadInput(f"the first {self.tail} blocks are compacted; they come back by reading them again")
        count = sum(map(len, self.blocks[blocks:]))
        if not count:
            return self
        live, hidden = self.live.fork(), torch.cat(self.hidden)
        live.rewind(count)
        hidden = hidden[: len(hidden) - count].clone()
        live.last_hidden = hidden[-1] if len(hidden) else self.frontier.last_hidden
        return replace(self, live=live, blocks=self.blocks[:blocks], hidden=(hidden,))

    def sizes(self) -> dict[str, Any]:
        """Returns its tokens, its slots and the bytes that they take."""
        return {"tokens": self.tokens, "slots": round(self.slots, 1), "bytes": self.nbytes}

    def context(self) -> CompactContext:
        """Returns the memory as one context with the states of the tail, so that opening it reads nothing again.

        The tail is the last segment, unless it is empty. Models with sliding layers get its tokens.
        """
        segments, rest = self.segments, self.blocks[self.tail :]
        if rest:
            segments = (*segments, self._tail(rest))
        return CompactContext(segments, self.live.next_position, model_digest=self.model.digest)

    def _tail(self, rest: Sequence[Block]) -> Segment:
        ids, origins = [i for block in rest for i in block.ids], tuple(block.origin for block in rest)
        start = self.live.next_position - len(ids)
        if any(layer.window is not None for layer in self.model.family.layers):
            return token_segment(ids, start, origins)
        with torch.no_grad():
            hidden = torch.cat(self.hidden)
            states = self.live.tail_states(slice(0, len(ids)), torch.tensor(ids), hidden, self.frontier.last_hidden)
        return keep_pairs(states, [None] * len(states.keys), origins)


@torch.no_grad()
def open_cache(
    context: CompactContext, blocks: Sequence[Block], tail: int, hidden: Tensor, empty: SessionCache
) -> SessionCache:
    """Loads the context of `SessionCache.context`, up to `blocks`.

    `hidden [T, d]` are the hidden states of the blocks from `tail` on; later blocks of that time are dropped.
    """
    segments = context.segments[: len(context.segments) - bool(len(hidden))]
    frontier = KVContext(empty.model).extend(segments, context.next_position - len(hidden)).fork(frozen=True)
    cache = replace(empty, blocks=tuple(blocks)).start_behind(frontier, segments, tail)
    rest = blocks[tail:]
    if not rest:
        return cache
    last, count = context.segments[-1], sum(map(len, rest))
    if not isinstance(last, StateSegment):
        return cache.read(rest)
    live = cache.live.fork()
    live.retain(last)
    live.rewind(len(hidden) - count)
    live.last_hidden = hidden[count - 1]
    return cache.extend(live, rest, (hidden[:count],))


class KeepRule(NamedTuple):
    """The blocks that a compaction leaves verbatim, and whether they are read again."""

    stays: Callable[[Block], bool]
    recent: int
    """Index of the first of the newest turns, which all stay."""
    restart: bool = False
    """True: they are read again over the compact memory. Else they keep their states, which know the text that goes."""


def compact_cache(
    cache: SessionCache,
    engine: LocalEngine,
    plan: Plan,
    rule: KeepRule,
    target: int | None = None,
    progress: Progress = quiet,
) -> tuple[SessionCache, dict[str, Any]]:
    """Compacts the tail's blocks that do not stay; returns the cache after it, and its sizes, seconds and findings.

    The result has at most `target` slots if so much may go. If positions run out, those of the compacted past are
    compressed, even if nothing new is compacted. Raises BadInput if there is nothing to do, UnsupportedModel if states
    cannot be kept.
    """
    began, most = time.perf_counter(), cache.model.max_tokens
    smaller, made = _compact_tail(cache, engine, plan, rule, progress)
    if target is not None:
        smaller = tighten_cache(smaller, target, strict=False)
    after = (
        fit_positions(smaller, int(FREE_SHARE * most)) if smaller.live.next_position > FULL_SHARE * most else smaller
    )
    if after is cache:
        raise BadInput("nothing may be compacted yet: what is not pinned is among the recent exchanges")
    evidence = _describe_compaction(cache, after, made, time.perf_counter() - began)
    if after is not smaller:
        evidence["next_position"] = [cache.live.next_position, after.live.next_position]
    return after, evidence


class PreparedCompaction(NamedTuple):
    """A compaction that the session has not taken over yet."""

    before: SessionCache
    after: SessionCache
    evidence: Mapping[str, Any]
    pinned: frozenset[int]


@torch.no_grad()
def catch_up(made: PreparedCompaction, now: SessionCache) -> SessionCache:
    """Reads into a compacted memory what came since. Raises Conflict if `now` does not continue the memory before."""
    before, after = made.before, made.after
    if now is before:
        return after
    if now.segments is not before.segments or now.blocks[: len(before.blocks)] != before.blocks:
        raise Conflict("the session went another way while it was being compacted")
    new = now.blocks[len(before.blocks) :]
    moved_on = after.live.next_position != before.live.next_position
    if moved_on or made.evidence["restart"] or not new:
        return after.read(new)
    hidden, live = torch.cat(now.hidden), after.live.fork()
    part = slice(len(hidden) - sum(map(len, new)), len(hidden))
    live.take(now.live, part, hidden[-1])
    return after.extend(live, new, (hidden[part].clone(),))


def _compact_tail(
    cache: SessionCache, engine: LocalEngine, plan: Plan, rule: KeepRule, progress: Progress
) -> tuple[SessionCache, CompactContext | None]:
    """Compacts the old blocks of the tail; returns the memory as it is if none may go."""
    rest = cache.blocks[cache.tail :]
    old = tuple(block for block in rest if block.origin.turn < rule.recent)
    start = cache.live.next_position - sum(map(len, rest))
    cut = [replace(part, start=part.start + start) for part in runs(old, list(map(rule.stays, old)))]
    if not any(part.compact for part in cut):
        if plan.slots is not None and cache.slots > plan.slots:
            return tighten_cache(cache, plan.slots), None
        return cache, None
    if not rule.restart:
        check_retains(cache.model)
        hidden = torch.cat(cache.hidden)
        engine = RetainedStatesEngine(cache.model, cache.live, start, hidden, cache.frontier.last_hidden)
    begin = StartingMemory(cache.frontier, cache.segments, retain=not rule.restart)
    ratio = replace(plan, slots=None)  # a session's slots are a bound on all that it holds, kept below
    made, frontier = compact_in_memory(cut, engine, ratio, progress, begin=begin)
    frontier = frontier.fork(frozen=True)
    frontier.last_hidden = None
    after = _append_recent(cache, frontier, made.segments, len(old), rule.restart)
    if plan.slots is not None:
        after = tighten_cache(after, plan.slots)
    return after, made


@torch.no_grad()
def _append_recent(
    cache: SessionCache, frontier: KVContext, segments: tuple[Segment, ...], gone: int, restart: bool
) -> SessionCache:
    """Puts the recent blocks behind a new frontier: with their states, or read again."""
    rest = cache.blocks[cache.tail + gone :]
    after = cache.start_behind(frontier, segments, cache.tail + gone)
    if restart or not rest:
        return after.read(rest)
    live, hidden = after.live.fork(), torch.cat(cache.hidden)
    first = len(hidden) - sum(map(len, rest))
    frontier.last_hidden = hidden[first - 1]
    live.take(cache.live, slice(first, len(hidden)), hidden[-1])
    return after.extend(live, rest, (hidden[first:].clone(),))  # a view would hold on to what has gone


@torch.no_grad()
def tighten_cache(cache: SessionCache, slots: int, *, strict: bool = True) -> SessionCache:
    """Drops the least useful compacted slots until at most `slots` are left.

    If too few may go, raises BadOption, or returns the cache as it is if not `strict`.
    """
    over = cache.slots - slots
    if over <= 0:
        return cache
    scored = [at for at, s in enumerate(cache.segments) if isinstance(s, StateSegment) and s.scores]
    heads = len(cache.model.family.full) * cache.model.family.kv_heads
    total = sum(len(c.scores) for c in find_cells([cache.segments[at] for at in scored])) if scored else 0
    pairs = int(total - over * heads)
    if (pairs < heads * len(scored) or not scored) and not strict:
        return cache
    if pairs < heads * len(scored) or not scored:
        raise BadOption(
            f"{cache.slots:.0f} slots are held, {total / heads:.0f} of them compacted: a bound of {slots} leaves no "
            "room; raise it, pin less, or keep fewer recent exchanges"
        )
    segments = list(cache.segments)
    for at, segment in zip(scored, tighten([segments[at] for at in scored], pairs), strict=True):
        segments[at] = segment
    return replace_frontier(cache, tuple(segments))


@torch.no_grad()
def replace_frontier(cache: SessionCache, segments: tuple[Segment, ...], by: float = 0) -> SessionCache:
    """Puts the tail, `by` positions later, behind a frontier of other segments."""
    rest = cache.blocks[cache.tail :]
    start = cache.live.next_position - sum(map(len, rest)) + int(by)
    frontier = KVContext(cache.model).extend(segments, start).fork(frozen=True)
    frontier.last_hidden = cache.frontier.last_hidden
    after = cache.start_behind(frontier, segments, cache.tail)
    if not rest:
        return after
    tail, live, hidden = cache._tail(rest), after.live.fork(), torch.cat(cache.hidden)
    if isinstance(tail, StateSegment):
        live.retain(shift_segment(tail, by), hidden[-1])  # type: ignore[arg-type]
        return after.extend(live, rest, (hidden,))
    return after.read(rest)


def fit_positions(cache: SessionCache, most: int) -> SessionCache:
    """Compresses the positions of the compacted past, so that the next token stands at `most` or as near as possible.

    A model reads only so many positions, however few slots stand at them.
    """
    end = cache.live.next_position - sum(map(len, cache.blocks[cache.tail :]))
    over = min(cache.live.next_position - most, find_slack(cache.segments, end))
    if over <= 0:
        return cache
    return replace_frontier(cache, compress_positions(cache.segments, end, over), -over)


def _describe_compaction(
    before: SessionCache, after: SessionCache, made: CompactContext | None, seconds: float
) -> dict[str, Any]:
    gate = made.evidence.get("gate") if made else None
    return {
        "tokens": after.tokens,
        "compacted": made.evidence["tokens_compacted"] if made else 0,
        "before": {"slots": round(before.slots, 1), "bytes": before.nbytes},
        "slots": round(after.slots, 1),
        "bytes": after.nbytes,
        "seconds": round(seconds, 3),
        "recipe": dict(made.recipe) if made else {},
        **({"gate": gate} if gate else {}),
    }
