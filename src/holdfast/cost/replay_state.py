"""The state of a replay, and the effect of one call on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from holdfast.cost.cache import Cache
from holdfast.cost.calls import Call, Session
from holdfast.cost.compaction import SimulatedCompaction, Terms, draft_tokens
from holdfast.cost.strategy import Strategy
from holdfast.cost.usage import Usage
from holdfast.session.trigger import CircuitBreaker, due, history_status, history_trigger
from holdfast.transcript.draft import Draft, Piece, turn_size
from holdfast.transcript.turn import Role, Turn

Progress = Callable[[int, int], None]
"""Called as `progress(done, total)`, in calls."""
REREAD_OUTPUT = 100
"""Tokens of a call that reads again what was taken out."""


def quiet(done: int, total: int) -> None:
    """Ignores progress."""


@dataclass(frozen=True)
class Step:
    """One call as it was billed, with the compaction before it."""

    turn: int
    """0-based turn that the call made."""
    usage: Usage
    money: float
    """USD, the compactor's included."""
    made: SimulatedCompaction | None = None
    compactor_money: float = 0.0
    reread: bool = False
    """True for a call of its own that reads again what was taken out."""


@dataclass(frozen=True)
class ReplayState:
    """The state of a replay between two calls."""

    held: Draft
    cache: Cache
    steps: tuple[Step, ...] = ()
    breaker: CircuitBreaker = field(default_factory=CircuitBreaker)
    """The circuit breaker, as the proxy has one for every history."""

    @property
    def money(self) -> float:
        return sum(step.money for step in self.steps)


def start_replay(session: Session, terms: Terms) -> ReplayState:
    """Returns the state before the first call."""
    return ReplayState(Draft(replace(session.transcript, turns=()), ()), Cache(terms.rules))


def add_turns(world: ReplayState, session: Session, stop: int) -> ReplayState:
    """Returns the state with the turns up to `stop` at the end."""
    turns, begin = session.transcript.turns, len(world.held.raw.turns)
    raw = replace(world.held.raw, turns=turns[:stop])
    new = tuple(Piece(turns[at], (at,)) for at in range(begin, stop))
    return replace(world, held=Draft(raw, (*world.held.pieces, *new)))


def is_due(world: ReplayState, strategy: Strategy, session: Session) -> bool:
    """Applies the trigger rule, as the proxy does before it sends a request."""
    status = history_status(len(world.held.raw.turns), draft_tokens(world.held, session), world.breaker)
    return due(status, history_trigger(strategy.trigger)) is not None


def make_call(
    world: ReplayState, call: Call, made: SimulatedCompaction | None, session: Session, terms: Terms
) -> ReplayState:
    """Returns the state after one call, compacted first if an option is given, and read again if the terms say so."""
    if not made:
        return _send(world, call, call.output, session, terms)
    price = terms.compactor_money(made.compactor)
    back = _read_again(world.held, made, session, terms)
    after = _send(replace(world, held=made.draft), call, REREAD_OUTPUT if back else call.output, session, terms)
    sent = after.steps[-1]
    last = replace(sent, made=made, money=sent.money + price, compactor_money=price, reread=bool(back))
    after = replace(after, steps=(*after.steps[:-1], last))
    return _send(_with(after, back), call, call.output, session, terms) if back else after


def _send(world: ReplayState, call: Call, output: int, session: Session, terms: Terms) -> ReplayState:
    cache, usage = world.cache.call(session.prompt(world.held.turns), call.at)
    usage = replace(usage, output=output)
    return replace(world, cache=cache, steps=(*world.steps, Step(call.turn, usage, terms.prices.money(usage))))


def _with(world: ReplayState, turns: Sequence[tuple[int, Turn]]) -> ReplayState:
    pieces = tuple(Piece(turn, (at,), "read again") for at, turn in turns)
    return replace(world, held=replace(world.held, pieces=(*world.held.pieces, *pieces)))


def _read_again(held: Draft, made: SimulatedCompaction, session: Session, terms: Terms) -> list[tuple[int, Turn]]:
    """Puts back the newest results that the compaction took out, until the share of the terms is reached."""
    kept = {id(piece.turn) for piece in made.draft.pieces}
    back: list[tuple[int, Turn]] = []
    room = terms.reread * made.freed
    for piece in reversed(held.pieces):
        tokens = turn_size(piece.turn, session.count)
        if room > 0 and piece.at is not None and piece.turn.role is Role.TOOL and id(piece.turn) not in kept:
            back.insert(0, (piece.at, replace(piece.turn, call_id="")))
            room -= tokens
    return back
