"""A recorded session replayed under a strategy: the same calls, answers and times, with other prompts.

What it cannot know is what the agent would have done instead; `Terms.reread` prices one guess at that.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from holdfast.cost.best_schedule import find_best_schedule
from holdfast.cost.calls import Session
from holdfast.cost.compaction import Terms, compact, cut_candidates, draft_tokens
from holdfast.cost.planner import Advice, Now, Option, Past, advise
from holdfast.cost.replay_state import Progress, ReplayState, Step, add_turns, is_due, make_call, quiet, start_replay
from holdfast.cost.strategy import Strategy
from holdfast.cost.usage import Usage, sum_usage


@dataclass(frozen=True)
class Run:
    """A session under one strategy."""

    strategy: Strategy
    steps: tuple[Step, ...]
    advice: Advice | None = None
    """Of a planned strategy: what it says before the call after the last."""

    @property
    def usage(self) -> Usage:
        """Of the agent's calls."""
        return sum_usage(step.usage for step in self.steps)

    @property
    def compactor(self) -> Usage:
        return sum_usage(step.made.compactor for step in self.steps if step.made)

    @property
    def money(self) -> float:
        return sum(step.money for step in self.steps)

    @property
    def compactor_money(self) -> float:
        return sum(step.compactor_money for step in self.steps)

    @property
    def compactions(self) -> tuple[Step, ...]:
        return tuple(step for step in self.steps if step.made)


def replay(session: Session, strategy: Strategy, terms: Terms, progress: Progress = quiet) -> Run:
    """Replays the session's calls under a strategy."""
    terms = terms if strategy.cached else replace(terms, rules=replace(terms.rules, caching="off"))
    if strategy.when == "best":
        found = Run(strategy, find_best_schedule(session, strategy, terms, progress).steps)
        advised = Run(strategy, replay(session, replace(strategy, when="plan"), terms).steps)
        return min(found, advised, key=lambda run: run.money)
    world = never = start_replay(session, terms)
    advice = None
    past = Past((), (), ())
    for at, call in enumerate(session.calls):
        progress(at, len(session.calls))
        world, never = add_turns(world, session, call.turn), add_turns(never, session, call.turn)
        made = None
        if strategy.method and is_due(world, strategy, session):
            if strategy.when == "plan":
                said = ask_planner(world, never, strategy, session, terms, replace(past, next_at=call.at), hurried=True)
                made = said.option.made if said.when == "now" and said.option else None
            else:
                before = draft_tokens(world.held, session)
                made = compact(world.held, strategy, session, terms)
                left = before - made.freed if made else None
                world = replace(world, breaker=world.breaker.after(len(world.held.raw.turns), before, left))
        world = make_call(world, call, made, session, terms)
        never = make_call(never, call, None, session, terms)
        past = Past(
            (*past.prompts, never.steps[-1].usage.prompt),
            (*past.outputs, call.output),
            (*past.times, call.at),
            world.money,
            never.money,
        )
    if strategy.when == "plan" and session.calls:
        whole = len(session.transcript.turns)
        here, there = add_turns(world, session, whole), add_turns(never, session, whole)
        advice = ask_planner(here, there, strategy, session, terms, past)
    return Run(strategy, world.steps, advice)


def ask_planner(
    world: ReplayState,
    never: ReplayState,
    strategy: Strategy,
    session: Session,
    terms: Terms,
    past: Past,
    *,
    hurried: bool = False,
) -> Advice:
    """Returns the planner's advice before the next call.

    Cuts are compared without the gate, which makes each a little longer; the best is then judged as the gate leaves it.
    If `hurried`, only cuts that would be made now are compared.
    """
    here, there = session.prompt(world.held.turns), session.prompt(never.held.turns)
    now = Now(here, world.cache, there, never.cache, past)

    def advise_on(begins: Iterable[int], gate: bool) -> Advice:
        made = (compact(world.held, strategy, session, replace(terms, gate=gate), begin) for begin in begins)
        options = [Option(held, session.prompt(held.draft.turns)) for held in made if held and held.freed]
        return advise(now, options, terms)

    first = advise_on(cut_candidates(world.held, session, terms), False)
    if not terms.gate or not first.option or (hurried and first.when != "now"):
        return first
    return advise_on([first.option.made.start], True)
