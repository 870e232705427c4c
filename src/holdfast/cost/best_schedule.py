"""The cheapest schedule of compactions that a search finds when the whole session is known: the reference for advice.

A beam search over the calls: each state may be compacted before each call from each possible start. It is no proof of
an optimum, but every schedule in it could have been followed, so no honest advice is compared with a dream.
"""

from __future__ import annotations

from holdfast.cost.calls import Session
from holdfast.cost.compaction import Terms, compact, cut_candidates
from holdfast.cost.replay_state import Progress, ReplayState, add_turns, is_due, make_call, quiet, start_replay
from holdfast.cost.strategy import Strategy

WIDTH = 8
"""States that are kept; never compacting is always one more."""


def find_best_schedule(session: Session, strategy: Strategy, terms: Terms, progress: Progress = quiet) -> ReplayState:
    """Returns the session under the cheapest schedule that is found."""
    never = start_replay(session, terms)
    beam: list[ReplayState] = []
    for at, call in enumerate(session.calls):
        left = len(session.calls) - at - 1
        progress(at, len(session.calls))

        def outlook(world: ReplayState, left: int = left) -> float:
            """Returns the money so far, and that of reading the last prompt again in every call that is left."""
            tokens = world.cache.last.tokens or world.steps[-1].usage.prompt
            rates = terms.prices.rates_of(tokens)
            return (
                world.money + left * tokens * (rates.input if terms.rules.caching == "off" else rates.cache_read) / 1e6
            )

        never, beam = add_turns(never, session, call.turn), [add_turns(world, session, call.turn) for world in beam]
        made = [
            make_call(world, call, option, session, terms)
            for world in (never, *beam)
            if is_due(world, strategy, session)
            for begin in cut_candidates(world.held, session, terms)
            if (option := compact(world.held, strategy, session, terms, begin)) and option.freed
        ]
        beam = sorted([*(make_call(world, call, None, session, terms) for world in beam), *made], key=outlook)[:WIDTH]
        never = make_call(never, call, None, session, terms)
    return min((never, *beam), key=lambda world: world.money)
