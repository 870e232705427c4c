"""The cheapest schedule of compactions that is found when the whole session is known: what advice is measured against.

A beam search over the calls: each state may be compacted before each call from each possible start. It is no proof
of an optimum, but every schedule in it could have been followed, so no honest advice is compared with a dream.
"""

from __future__ import annotations

from holdfast.cost.calls import Session
from holdfast.cost.compaction import Terms, compact, starts
from holdfast.cost.replay_state import Progress, World, called, due, grown, quiet, start
from holdfast.cost.strategy import Strategy

WIDTH = 8
"""States that are kept; never compacting is always one more."""


def best(session: Session, strategy: Strategy, terms: Terms, progress: Progress = quiet) -> World:
    """The session under the cheapest schedule that is found."""
    never = start(session, terms)
    beam: list[World] = []
    for at, call in enumerate(session.calls):
        left = len(session.calls) - at - 1
        progress(at, len(session.calls))

        def outlook(world: World, left: int = left) -> float:
            """So far, and its last prompt read again in every call that is left."""
            tokens = world.cache.last.tokens or world.steps[-1].usage.prompt
            rates = terms.prices.rates_of(tokens)
            return (
                world.money + left * tokens * (rates.input if terms.rules.caching == "off" else rates.cache_read) / 1e6
            )

        never, beam = grown(never, session, call.turn), [grown(world, session, call.turn) for world in beam]
        made = [
            called(world, call, option, session, terms)
            for world in (never, *beam)
            if due(world, strategy, session)
            for begin in starts(world.held, session, terms)
            if (option := compact(world.held, strategy, session, terms, begin)) and option.freed
        ]
        beam = sorted([*(called(world, call, None, session, terms) for world in beam), *made], key=outlook)[:WIDTH]
        never = called(never, call, None, session, terms)
    return min((never, *beam), key=lambda world: world.money)
