"""Acceptance of a prepared compaction: the steps that the agent really took are scored over the full and over the
compact memory, before the compaction is taken over.

    loss = log p(steps | full) - log p(steps | compact)      supply = log p(steps | full) - log p(steps | nothing)
    retained = 1 - loss / max(supply, 1 nat)

*Nothing* is the memory of what stays verbatim. Below a nat the old text says nothing to the step, and a share of it
would be noise. The full memory has scored its steps when they were read; each other memory reads them once.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from holdfast.blocks.block import Block, Kind
from holdfast.context.segments import StateSegment
from holdfast.engine.kv_context import KVContext
from holdfast.errors import Conflict
from holdfast.model.forward import log_probs
from holdfast.session.cache import PreparedCompaction, SessionCache, replace_frontier

STEPS = (Kind.ACTION, Kind.REASONING)
LEAST_SUPPLY = 1.0
"""Nats."""


@dataclass(frozen=True)
class Acceptance:
    """The score of a compaction on the steps that the agent really took. Sums of log-probabilities are in nats."""

    steps: int
    tokens: int
    since: bool
    """True: the steps were taken while the compaction was prepared. Else the newest step before it is scored."""
    full: float
    compact: float
    nothing: float | None
    """None where the compact memory loses so little that it need not be known."""
    seconds: float

    @property
    def retained(self) -> float:
        """Share that the compact memory retains of what the old text supplies to the steps."""
        supply = self.full - self.nothing if self.nothing is not None else 0.0
        return 1 - (self.full - self.compact) / max(supply, LEAST_SUPPLY)

    def row(self) -> dict[str, Any]:
        """Returns the score as JSON for a log."""
        sums = {name: round(getattr(self, name), 3) for name in ("full", "compact")}
        nothing = {} if self.nothing is None else {"nothing": round(self.nothing, 3)}
        head = {"steps": self.steps, "tokens": self.tokens, "since": self.since, **sums, **nothing}
        return {**head, "retained": round(self.retained, 4), "seconds": round(self.seconds, 3)}


@torch.no_grad()
def score_steps(made: PreparedCompaction, now: SessionCache, accept: float) -> Acceptance | None:
    """Judges a prepared compaction by the steps since, or by the newest one before; None if there is no step to score.

    `accept` is the share that will do: a loss within it needs no third reading. Raises Conflict if `now` does not
    continue the memory that was compacted.
    """
    began, before = time.perf_counter(), made.before
    if now.segments is not before.segments or now.blocks[: len(before.blocks)] != before.blocks:
        raise Conflict("the session went another way while it was being compacted")
    start, since = len(before.blocks), True
    if not _steps(now.blocks[start:]):
        start, since = _newest_step(made.after), False
        now = now.crop(len(before.blocks))
    blocks = now.blocks[start:]
    while blocks and blocks[-1].kind not in STEPS:  # what came behind the last step is not scored
        blocks = blocks[:-1]
    steps = _steps(blocks)
    if not steps:
        return None
    compact = made.after if since else made.after.crop(start)
    full = _score_read(now, start, blocks)
    ours, nothing = _score(compact.live, blocks), None
    if full - ours > (1 - accept) * LEAST_SUPPLY:
        nothing = _score(_verbatim_only(compact).live, blocks)
    tokens = sum(len(block) for block in blocks if block.kind in STEPS)
    return Acceptance(len(steps), tokens, since, full, ours, nothing, time.perf_counter() - began)


def _steps(blocks: Sequence[Block]) -> set[int]:
    """Returns the turns of the agent among blocks."""
    return {block.origin.turn for block in blocks if block.kind in STEPS}


def _newest_step(cache: SessionCache) -> int:
    """Returns the first block of the agent's newest turn that is verbatim behind the frontier; their number if none."""
    newest = max(_steps(cache.blocks[cache.tail :]), default=-1)
    turns = [block.origin.turn for block in cache.blocks]
    return max(turns.index(newest), cache.tail) if newest in turns else len(turns)


def _score_read(cache: SessionCache, start: int, blocks: Sequence[Block]) -> float:
    """Returns the log-probability of the steps among `blocks`, the blocks from `start` on, as they were read."""
    hidden, count = torch.cat(cache.hidden), sum(map(len, cache.blocks[start:]))
    first = len(hidden) - count
    before = hidden[first - 1] if first else cache.frontier.last_hidden
    return _sum(cache, blocks, hidden[first : first + sum(map(len, blocks))], before)


def _score(live: KVContext, blocks: Sequence[Block]) -> float:
    """Returns the log-probability of the steps among `blocks` when a memory reads them."""
    live, before = live.fork(), live.last_hidden
    hidden = live.feed([i for block in blocks for i in block.ids])
    return _sum(live, blocks, hidden, before)


def _sum(memory: SessionCache | KVContext, blocks: Sequence[Block], hidden: Tensor, before: Tensor | None) -> float:
    """Sums log-probabilities over the steps' tokens; `hidden [n, d]` are those of all blocks, `before [d]` of the token
    in front of them. Where nothing predicts the first token it is not counted."""
    ids = torch.tensor([i for block in blocks for i in block.ids], device=hidden.device)
    wanted = torch.tensor([block.kind in STEPS for block in blocks for _ in block.ids], device=hidden.device)
    predicts = torch.cat((hidden[:1] if before is None else before[None], hidden[:-1]))
    wanted[0] &= before is not None
    return float(log_probs(memory.model, predicts[wanted], ids[wanted]).sum())


def _verbatim_only(cache: SessionCache) -> SessionCache:
    """Returns the memory without the slots of what was compacted."""
    kept = tuple(s for s in cache.segments if not (isinstance(s, StateSegment) and s.scores))
    return replace_frontier(cache, kept)
