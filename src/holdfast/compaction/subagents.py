"""Sub-agents: what they are given of their parent's memory, and what of theirs it takes back.

A parent is a value and is never changed; a sub-agent reads on a fork of a memory, which shares every tensor.

    parent = compact(session, engine)
    child = fork(parent, engine)                          # its memory is the parent's, not a copy
    own = own_blocks(session, turns, engine)              # what it was asked, did and said
    live = child.live()
    live.feed([i for block in own for i in block.ids])    # it works
    parent = merge_subagent(parent, child, own, engine)   # in place of its whole transcript
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Literal, get_args

from holdfast.blocks.block import Block, Kind
from holdfast.blocks.render import render
from holdfast.compaction.partition import runs
from holdfast.compaction.plan import Plan, Policy
from holdfast.compaction.recompact import add_sizes, count_sizes
from holdfast.compaction.walk import StartingMemory, compact_in_memory
from holdfast.context.compose import compose
from holdfast.context.segments import CompactContext, TokenSegment, token_segment
from holdfast.context.surgery import shift_segment
from holdfast.engine.kv_context import KVContext
from holdfast.engine.local import LocalEngine
from holdfast.errors import BadInput, BadOption
from holdfast.progress import Progress, quiet
from holdfast.transcript.turn import Transcript, Turn

How = Literal["compact", "verbatim", "none"]


@dataclass(frozen=True)
class SubAgent:
    """The start of a sub-agent."""

    how: How
    start: CompactContext
    """The context that it was given."""
    memory: KVContext
    """Its context in memory. Nobody feeds it; `live` returns a fork to read on."""

    def live(self) -> KVContext:
        """Returns a memory of its own that begins where it was given."""
        return self.memory.fork()


def fork(
    parent: CompactContext,
    engine: LocalEngine,
    how: How = "compact",
    *,
    session: Transcript | None = None,
    live: KVContext | None = None,
) -> SubAgent:
    """Gives a sub-agent its context.

    `compact` is the parent's own, not a copy; with `live`, the parent opened, not even its verbatim tokens are read
    again. `verbatim` is the raw `session`, token by token. `none` is the system prompt at the parent's start, if any.
    Raises BadOption for another `how` and for `verbatim` without a session, BadInput for a `live` that ends elsewhere.
    """
    if how not in get_args(How):
        raise BadOption(f"a sub-agent's context is one of {', '.join(get_args(How))}, got {how!r}")
    if how == "compact":
        if live is not None and live.next_position != parent.next_position:
            raise BadInput(f"the parent ends at {parent.next_position}, the memory given at {live.next_position}")
        return SubAgent(how, parent, (live or engine.open(parent)).fork())
    if how == "none":
        start = system_prompt(parent)
    elif session is None:
        raise BadOption("a verbatim fork needs the session; pass session=…, or fork the compact context")
    else:
        blocks = render(session, engine.model.tokenizer).blocks
        start = _verbatim(blocks, engine)
    return SubAgent(how, start, engine.open(start))


def own_blocks(session: Transcript, turns: Sequence[Turn], engine: LocalEngine) -> tuple[Block, ...]:
    """Returns a sub-agent's turns as the model reads them after `session`; an empty session if it was given none.

    Origins count turns from the session's first.
    """
    whole = replace(session, turns=(*session.turns, *turns))
    rendered = render(whole, engine.model.tokenizer).blocks
    return tuple(b for b in rendered if b.origin.turn >= len(session.turns))


def merge_subagent(
    parent: CompactContext,
    child: SubAgent,
    own: Sequence[Block],
    engine: LocalEngine,
    plan: Plan | None = None,
    progress: Progress = quiet,
) -> CompactContext:
    """Returns the parent with the sub-agent's compacted turns in place of its whole transcript; `own` are its turns
    alone.

    They are compacted against the memory that the sub-agent had, and stand behind the parent's end. What the plan's
    policy pins and the newest exchanges (the sub-agent's report) stay verbatim. Their states saw what the sub-agent
    saw: after a `none` fork, or if the parent has gone on, that is less than what now stands before them. Raises
    BadInput if nothing was added.
    """
    if not own:
        raise BadInput("the sub-agent added nothing; give the blocks of its own turns")
    plan, start = plan or Plan(), child.start.next_position
    cut = runs(tuple(own), _stays_verbatim(own, plan.policy))
    parts = [replace(part, start=part.start + start) for part in cut]
    made, _ = compact_in_memory(parts, engine, plan, progress, begin=StartingMemory(child.live()))
    added = replace(
        made,
        segments=tuple(shift_segment(segment, -start) for segment in made.segments),
        next_position=made.next_position - start,
        recipe={"subagent": child.how, **made.recipe},
    )
    added = replace(added, evidence={**made.evidence, **count_sizes(added, engine.model)})
    return add_sizes(compose((parent, added)), engine.model)


def system_prompt(context: CompactContext) -> CompactContext:
    """Returns the verbatim system prompt that a context begins with, or an empty context."""
    first = context.segments[0] if context.segments else None
    if not isinstance(first, TokenSegment):
        return CompactContext((), 0)
    origins = tuple(takewhile(lambda o: o.kind is Kind.SYSTEM, first.origins))
    count = sum(last - start for start, last in (o.tokens for o in origins))
    if not count:
        return CompactContext((), 0)
    kept = TokenSegment(first.ids[:count], first.positions[:count], origins)
    return CompactContext((kept,), count, model_digest=context.model_digest)


def _stays_verbatim(own: Sequence[Block], policy: Policy) -> list[bool]:
    """Returns for each block whether the policy keeps it: pinned kinds, and the newest exchanges.

    A turn that is no result begins an exchange.
    """
    begins = sorted({b.origin.turn for b in own if b.kind is not Kind.OBSERVATION})
    recent = begins[-policy.keep_recent :] if policy.keep_recent else []
    return [b.kind in policy.pin or bool(recent and b.origin.turn >= recent[0]) for b in own]


def _verbatim(blocks: tuple[Block, ...], engine: LocalEngine) -> CompactContext:
    ids = [i for block in blocks for i in block.ids]
    made = token_segment(ids, 0, tuple(block.origin for block in blocks))
    return CompactContext((made,), len(ids), {"latent": "full"}, model_digest=engine.model.digest)
