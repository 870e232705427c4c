"""Where a replay stands, and what one call does to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from holdfast.cost.cache import Cache
from holdfast.cost.calls import Call, Session
from holdfast.cost.compaction import Compacted, Terms, size
from holdfast.cost.strategy import Strategy
from holdfast.cost.usage import Usage
from holdfast.transcript.draft import Draft, Piece, turn_size
from holdfast.transcript.turn import Role, Turn

GROWTH = 1.25
"""After a compaction was tried, the next is tried when the session is so many times as long (and over the trigger)."""
Progress = Callable[[int, int], None]
"""Called as `progress(done, total)`, in calls."""
REREAD_OUTPUT = 100
"""Tokens of a call that reads again what was taken out."""


def quiet(done: int, total: int) -> None:
    """The progress of a caller who does not want any."""


@dataclass(frozen=True)
class Step:
    """One call as it was billed, with the compaction before it."""

    turn: int
    """0-based turn that the call made."""
    usage: Usage
    money: float
    """USD, the compactor's included."""
    made: Compacted | None = None
    compactor_money: float = 0.0
    reread: bool = False
    """Whether it is a call of its own that reads again what was taken out."""


@dataclass(frozen=True)
class World:
    """Where a replay stands."""

    held: Draft
    cache: Cache
    steps: tuple[Step, ...] = ()
    tried: int = 0
    """Tokens when a compaction was last tried, after it."""

    @property
    def money(self) -> float:
        return sum(step.money for step in self.steps)


def start(session: Session, terms: Terms) -> World:
    """Before the first call."""
    return World(Draft(replace(session.transcript, turns=()), ()), Cache(terms.rules))


def grown(world: World, session: Session, stop: int) -> World:
    """With the turns up to `stop` at the end."""
    turns, begin = session.transcript.turns, len(world.held.raw.turns)
    raw = replace(world.held.raw, turns=turns[:stop])
    new = tuple(Piece(turns[at], (at,)) for at in range(begin, stop))
    return replace(world, held=Draft(raw, (*world.held.pieces, *new)))


def due(world: World, strategy: Strategy, session: Session) -> bool:
    """Whether the session is long enough to be compacted."""
    return size(world.held, session) > max(strategy.trigger, GROWTH * world.tried)


def called(world: World, call: Call, made: Compacted | None, session: Session, terms: Terms) -> World:
    """After one call, compacted first where something was `made`, and read again where the terms say so."""
    if not made:
        return _sent(world, call, call.output, session, terms)
    price = terms.compactor_money(made.compactor)
    back = _read_again(world.held, made, session, terms)
    after = _sent(replace(world, held=made.draft), call, REREAD_OUTPUT if back else call.output, session, terms)
    sent = after.steps[-1]
    last = replace(sent, made=made, money=sent.money + price, compactor_money=price, reread=bool(back))
    after = replace(after, steps=(*after.steps[:-1], last))
    return _sent(_with(after, back), call, call.output, session, terms) if back else after


def _sent(world: World, call: Call, output: int, session: Session, terms: Terms) -> World:
    cache, usage = world.cache.call(session.prompt(world.held.turns), call.at)
    usage = replace(usage, output=output)
    return replace(world, cache=cache, steps=(*world.steps, Step(call.turn, usage, terms.prices.money(usage))))


def _with(world: World, turns: Sequence[tuple[int, Turn]]) -> World:
    pieces = tuple(Piece(turn, (at,), "read again") for at, turn in turns)
    return replace(world, held=replace(world.held, pieces=(*world.held.pieces, *pieces)))


def _read_again(held: Draft, made: Compacted, session: Session, terms: Terms) -> list[tuple[int, Turn]]:
    """The newest results that the compaction took out, until the share of the terms is reached; answers to no call."""
    kept = {id(piece.turn) for piece in made.draft.pieces}
    back: list[tuple[int, Turn]] = []
    room = terms.reread * made.freed
    for piece in reversed(held.pieces):
        tokens = turn_size(piece.turn, session.count)
        if room > 0 and piece.at is not None and piece.turn.role is Role.TOOL and id(piece.turn) not in kept:
            back.insert(0, (piece.at, replace(piece.turn, call_id="")))
            room -= tokens
    return back
