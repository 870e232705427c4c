"""The cache of a live session, as a value: compact slots in front, the newest turns verbatim behind them."""

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
from holdfast.engine.kv_context import KVContext, PrefillProgress, check_retains
from holdfast.engine.local import LocalEngine
from holdfast.errors import BadInput, BadOption, Conflict
from holdfast.methods.base import Progress, quiet
from holdfast.model.load import Model, full_bytes
from holdfast.session.retained_states import RetainedStatesEngine

FULL = 0.75
"""Of the positions that a model reads, from which on a compaction draws the past together."""
DRAWN = 0.5
"""Of them, to which it does."""


@dataclass(frozen=True)
class SessionCache:
    """The memory of a session and what it is made of."""

    live: KVContext
    """Everything."""
    frontier: KVContext
    """The memory before the tail; all of it slots."""
    segments: tuple[Segment, ...] = ()
    """The segments that `frontier` is made of."""
    blocks: tuple[Block, ...] = ()
    """The whole session."""
    tail: int = 0
    """The first block that is in the tail."""
    hidden: tuple[Tensor, ...] = ()
    """Of the tail's tokens, `[n, d]` each."""

    @classmethod
    def empty(cls, model: Model) -> SessionCache:
        return cls(KVContext(model), KVContext(model))

    @property
    def model(self) -> Model:
        return self.live.model

    @property
    def tokens(self) -> int:
        """Tokens of the whole session."""
        return self.blocks[-1].origin.tokens[1] if self.blocks else 0

    @property
    def slots(self) -> float:
        """KV pairs held, per layer and head on average."""
        return self.nbytes / full_bytes(self.model, 1)

    @property
    def nbytes(self) -> int:
        """KV bytes that the model reads."""
        return self.live.nbytes

    @property
    def footprint(self) -> int:
        """Bytes of memory: those, the un-rotated slots for stored contexts, and the tail's hidden states."""
        slots = (layer.nbytes for s in self.segments if isinstance(s, StateSegment) for layer in s.layers)
        return self.nbytes + sum(slots) + sum(part.nbytes for part in self.hidden)

    def extend(self, live: KVContext, blocks: Sequence[Block], hidden: Sequence[Tensor]) -> SessionCache:
        """Returns the cache after `blocks` were read into `live`."""
        return replace(self, live=live, blocks=(*self.blocks, *blocks), hidden=(*self.hidden, *hidden))

    @torch.no_grad()
    def read(self, blocks: Sequence[Block], report: PrefillProgress | None = None) -> SessionCache:
        """Returns the cache with `blocks` read behind everything."""
        ids, live = [i for block in blocks for i in block.ids], self.live.fork()
        return self.extend(live, blocks, (live.feed(ids, report=report),)) if ids else self

    def crop(self, blocks: int) -> SessionCache:
        """Returns the cache with only the first `blocks` blocks. Raises BadInput if later ones are no
        longer verbatim.
        """
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

    def context(self) -> CompactContext:
        """Returns all of it as one context, the states of the tail included, so that opening it reads nothing again.

        The tail is the last segment, unless it is empty. Models whose layers forget by themselves get its tokens.
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
    context: CompactContext, blocks: Sequence[Block], tail: int, hidden: Tensor, model: Model
) -> SessionCache:
    """Opens what `SessionCache.context` returned, as far as `blocks`.

    `hidden [T, d]` are those of the blocks from `tail` on, which may have been more then.
    """
    segments = context.segments[: len(context.segments) - bool(len(hidden))]
    frontier = KVContext(model).extend(segments, context.next_position - len(hidden)).fork(frozen=True)
    held = SessionCache(frontier.fork(), frontier, segments, tuple(blocks[:tail]), tail)
    rest = blocks[tail:]
    if not rest:
        return held
    last, count = context.segments[-1], sum(map(len, rest))
    if not isinstance(last, StateSegment):
        return held.read(rest)
    live = frontier.fork()
    live.retain(last)
    live.rewind(len(hidden) - count)
    live.last_hidden = hidden[count - 1]
    return held.extend(live, rest, (hidden[:count],))


class Retention(NamedTuple):
    """The blocks that a compaction leaves verbatim, and the form in which they stay."""

    stays: Callable[[Block], bool]
    recent: int
    """The first of the newest turns, which all stay."""
    restart: bool = False
    """Read it again over the compact memory. Else it keeps its states, which know the text that goes."""


def compact_cache(
    held: SessionCache,
    engine: LocalEngine,
    plan: Plan,
    keeps: Retention,
    target: int | None = None,
    progress: Progress = quiet,
) -> tuple[SessionCache, dict[str, Any]]:
    """Compacts the tail's blocks that do not stay; returns the new cache and what that took.

    It comes down to `target` slots if so much may go. If positions run out, the compacted past is compressed in
    positions, be there anything new to compact or not. Raises BadInput if there is nothing to do, UnsupportedModel if
    states cannot be kept.
    """
    began, most = time.perf_counter(), held.model.max_tokens
    less, made = _compact_tail(held, engine, plan, keeps, progress)
    if target is not None:
        less = tighten_cache(less, target, strict=False)
    after = fit_positions(less, int(DRAWN * most)) if less.live.next_position > FULL * most else less
    if after is held:
        raise BadInput("nothing may be compacted yet: what is not pinned is among the recent exchanges")
    told = _describe_compaction(held, after, made, time.perf_counter() - began)
    if after is not less:
        told["next_position"] = [held.live.next_position, after.live.next_position]
    return after, told


class PreparedCompaction(NamedTuple):
    """A compaction that nobody has taken over yet."""

    before: SessionCache
    after: SessionCache
    told: Mapping[str, Any]
    pinned: frozenset[int]


@torch.no_grad()
def catch_up(made: PreparedCompaction, now: SessionCache) -> SessionCache:
    """Returns the compacted cache with what was read since. Raises Conflict if `now` does not continue
    what was there.
    """
    before, after = made.before, made.after
    if now is before:
        return after
    if now.segments is not before.segments or now.blocks[: len(before.blocks)] != before.blocks:
        raise Conflict("the session went another way while it was being compacted")
    new = now.blocks[len(before.blocks) :]
    moved_on = after.live.next_position != before.live.next_position
    if moved_on or made.told["restart"] or not new:
        return after.read(new)
    hidden, live = torch.cat(now.hidden), after.live.fork()
    part = slice(len(hidden) - sum(map(len, new)), len(hidden))
    live.take(now.live, part, hidden[-1])
    return after.extend(live, new, (hidden[part].clone(),))


def _compact_tail(
    held: SessionCache, engine: LocalEngine, plan: Plan, keeps: Retention, progress: Progress
) -> tuple[SessionCache, CompactContext | None]:
    """Compacts the tail; returns the cache as it is if nothing may go."""
    rest = held.blocks[held.tail :]
    old = tuple(block for block in rest if block.origin.turn < keeps.recent)
    start = held.live.next_position - sum(map(len, rest))
    cut = [replace(part, start=part.start + start) for part in runs(old, list(map(keeps.stays, old)))]
    if not any(part.compact for part in cut):
        if plan.slots is not None and held.slots > plan.slots:
            return tighten_cache(held, plan.slots), None
        return held, None
    if not keeps.restart:
        check_retains(held.model)
        hidden = torch.cat(held.hidden)
        engine = RetainedStatesEngine(held.model, held.live, start, hidden, held.frontier.last_hidden)
    begin = StartingMemory(held.frontier, held.segments, retain=not keeps.restart)
    ratio = replace(plan, slots=None)  # a session's slots are a bound on all that it holds, kept below
    made, frontier = compact_in_memory(cut, engine, ratio, progress, begin=begin)
    frontier = frontier.fork(frozen=True)
    frontier.last_hidden = None
    after = _append_recent(held, frontier, made.segments, len(old), keeps.restart)
    if plan.slots is not None:
        after = tighten_cache(after, plan.slots)
    return after, made


@torch.no_grad()
def _append_recent(
    held: SessionCache, frontier: KVContext, segments: tuple[Segment, ...], gone: int, restart: bool
) -> SessionCache:
    """Appends the recent blocks to a new frontier: as they were read, or read again."""
    rest, live = held.blocks[held.tail + gone :], frontier.fork()
    after = SessionCache(live, frontier, segments, held.blocks[: held.tail + gone], held.tail + gone)
    if restart or not rest:
        return after.read(rest)
    hidden = torch.cat(held.hidden)
    first = len(hidden) - sum(map(len, rest))
    frontier.last_hidden = hidden[first - 1]
    live.take(held.live, slice(first, len(hidden)), hidden[-1])
    return after.extend(live, rest, (hidden[first:].clone(),))  # a view would hold on to what has gone


@torch.no_grad()
def tighten_cache(held: SessionCache, slots: int, *, strict: bool = True) -> SessionCache:
    """Returns the cache with at most `slots`: the least useful compacted ones go. Raises BadOption if too few may go,
    or leaves all as it is if not `strict`.
    """
    over = held.slots - slots
    if over <= 0:
        return held
    scored = [at for at, s in enumerate(held.segments) if isinstance(s, StateSegment) and s.scores]
    heads = len(held.model.family.full) * held.model.family.kv_heads
    total = sum(len(c.scores) for c in find_cells([held.segments[at] for at in scored])) if scored else 0
    pairs = int(total - over * heads)
    if (pairs < heads * len(scored) or not scored) and not strict:
        return held
    if pairs < heads * len(scored) or not scored:
        raise BadOption(
            f"{held.slots:.0f} slots are held, {total / heads:.0f} of them compacted: a bound of {slots} leaves no "
            "room; raise it, pin less, or keep fewer recent exchanges"
        )
    segments = list(held.segments)
    for at, segment in zip(scored, tighten([segments[at] for at in scored], pairs), strict=True):
        segments[at] = segment
    return replace_frontier(held, tuple(segments))


@torch.no_grad()
def replace_frontier(held: SessionCache, segments: tuple[Segment, ...], by: float = 0) -> SessionCache:
    """Returns the same tail, `by` positions later, behind another frontier."""
    rest = held.blocks[held.tail :]
    start = held.live.next_position - sum(map(len, rest)) + int(by)
    frontier = KVContext(held.model).extend(segments, start).fork(frozen=True)
    frontier.last_hidden = held.frontier.last_hidden
    after = SessionCache(frontier.fork(), frontier, segments, held.blocks[: held.tail], held.tail)
    if not rest:
        return after
    tail, live, hidden = held._tail(rest), frontier.fork(), torch.cat(held.hidden)
    if isinstance(tail, StateSegment):
        live.retain(shift_segment(tail, by), hidden[-1])  # type: ignore[arg-type]
        return after.extend(live, rest, (hidden,))
    return after.read(rest)


def fit_positions(held: SessionCache, most: int) -> SessionCache:
    """Compresses the positions of the compacted past so that the next token stands at `most`, or as near to it as can
    be.

    A model reads only so many positions, however few slots stand at them.
    """
    end = held.live.next_position - sum(map(len, held.blocks[held.tail :]))
    over = min(held.live.next_position - most, find_slack(held.segments, end))
    if over <= 0:
        return held
    return replace_frontier(held, compress_positions(held.segments, end, over), -over)


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
