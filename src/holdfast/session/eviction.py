"""Drops blocks from the middle of a session's memory; what stands behind them keeps its states and its positions."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import groupby

import torch

from holdfast.blocks.block import Block
from holdfast.context.segments import Segment
from holdfast.context.surgery import keep_pairs
from holdfast.engine.kv_context import check_retains
from holdfast.errors import BadInput
from holdfast.session.cache import SessionCache


@torch.no_grad()
def evict_blocks(cache: SessionCache, gone: Collection[int], *, restart: bool = False) -> SessionCache:
    """Returns the cache without the blocks at the indices `gone`, which must be verbatim.

    All that stays was computed while they were there, and keeps its states bit for bit; the tail begins behind the last
    of them. With `restart` that tail is read again at its positions, over what is left. Raises BadInput for blocks
    that are compacted already, UnsupportedModel for a model whose layers forget by themselves.
    """
    if not gone:
        return cache
    check_retains(cache.model)
    if min(gone) < cache.tail or max(gone) >= len(cache.blocks):
        raise BadInput(f"only the blocks from {cache.tail} to {len(cache.blocks) - 1} are verbatim, got {min(gone)}")
    hidden, stop = torch.cat(cache.hidden), max(gone) + 1
    frontier, segments, at = cache.frontier.fork(), list(cache.segments), 0
    for kept, blocks in _runs(cache, stop, gone):
        part = slice(at, at := at + sum(map(len, blocks)))
        if kept:
            segments.append(_segment(cache, part, blocks, hidden))
            frontier.take(cache.live, part, hidden[part.stop - 1])
    frontier.settle(cache.live.next_position - (len(hidden) - at))
    frontier = frontier.fork(frozen=True)
    frontier.last_hidden = hidden[at - 1]  # it predicted the first token of the tail
    rest = cache.blocks[stop:]
    after = cache.start_behind(frontier, tuple(segments), stop)
    if restart or not rest:
        return after.read(rest)
    live = after.live.fork()
    live.take(cache.live, slice(at, len(hidden)), hidden[-1])
    return after.extend(live, rest, (hidden[at:].clone(),))


def _runs(cache: SessionCache, stop: int, gone: Collection[int]) -> Iterator[tuple[bool, list[Block]]]:
    """Yields the verbatim blocks up to `stop` in runs that stay or go."""
    for kept, indices in groupby(range(cache.tail, stop), key=lambda index: index not in gone):
        yield kept, [cache.blocks[index] for index in indices]


def _segment(cache: SessionCache, part: slice, blocks: list[Block], hidden: torch.Tensor) -> Segment:
    ids = torch.tensor([i for block in blocks for i in block.ids])
    before = hidden[part.start - 1] if part.start else cache.frontier.last_hidden
    states = cache.live.tail_states(part, ids, hidden[part], before)
    every = [torch.ones(keys.shape[:2], dtype=torch.bool, device=keys.device) for keys in states.keys]
    return keep_pairs(states, every, tuple(block.origin for block in blocks))
