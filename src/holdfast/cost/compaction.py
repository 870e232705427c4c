"""One compaction inside a replay: the method's own code and the gate, on the session as it is sent now.

No model is called. A method that asks one gets an answer of the length that the terms state, and what it would have
read and written is counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from holdfast.cost.cache import Rules
from holdfast.cost.calls import Session
from holdfast.cost.prices import Prices
from holdfast.cost.strategy import Strategy
from holdfast.cost.usage import Usage
from holdfast.engine.chat import ChatAnswer
from holdfast.errors import BadOption
from holdfast.methods.text.base import Room
from holdfast.session.trigger import CircuitBreaker
from holdfast.text.rewrite import TextPlan, rewrite_again
from holdfast.transcript.draft import Draft, turn_size, units

ANSWER = 0.1
"""Of what a compactor reads, how much it writes."""
ANSWER_HEAD = "## State and next step\n"


@dataclass(frozen=True)
class Terms:
    """The assumptions of a replay."""

    prices: Prices
    compactor: Prices | None = None
    """Of the model that compacts; None: the same model."""
    rules: Rules = field(default_factory=Rules)
    keep_recent: int = 3
    gate: bool = True
    """True if what a compaction would lose is put back, as `holdfast compact` does."""
    least_recent: int | None = None
    """As in a `TextPlan`, and so is `lookup`."""
    lookup: str = ""
    answer: float = ANSWER
    reread: float = 0.0
    """Of the tokens that a compaction takes out, how many the agent reads again at once, with one more call."""
    risk: float = 0.0
    """The share of the cost of never compacting so far that the planner may spend ahead of its savings."""
    remaining: int | None = None
    """Calls that the planner expects; None: as many as there were."""

    def __post_init__(self) -> None:
        for name in ("answer", "reread", "risk"):
            if not 0 <= getattr(self, name) <= 1:
                raise BadOption(f"{name} must be a share from 0 to 1, got {getattr(self, name)}")
        if self.keep_recent < 0:
            raise BadOption(f"keep_recent must be at least 0, got {self.keep_recent}")
        if self.remaining is not None and self.remaining < 1:
            raise BadOption(f"the calls that remain must be at least 1, got {self.remaining}")

    def compactor_money(self, usage: Usage) -> float:
        """Returns the USD of what a compactor read and wrote."""
        return (self.compactor or self.prices).money(usage)


@dataclass(frozen=True)
class SimulatedCompaction:
    """A session after one compaction."""

    draft: Draft
    cut: int
    """The earliest 0-based turn of the session whose bytes changed: all before it is still in the cache."""
    freed: int
    """Tokens."""
    compactor: Usage = field(default_factory=Usage)
    start: int = 0
    """Pieces at the head that it was not to touch."""
    instead: str = ""
    """The reason why another method did it; empty if the strategy's own did."""


@dataclass(frozen=True)
class _PlaceholderModel:
    """A stand-in for a model: its notes say nothing and are as long as the terms state."""

    session: Session
    share: float
    name: str = "assumed"

    def __call__(self, system: str, prompt: str, max_tokens: int, timeout: float) -> ChatAnswer:
        read = self.session.count(system) + self.session.count(prompt)
        room = max(1, min(max_tokens, round(read * self.share)))
        text = ANSWER_HEAD + "\n".join(f"- {' '.join(['note'] * 15)}" for _ in range(max(1, round(room / 16))))
        return ChatAnswer(text, read, room)


def draft_tokens(held: Draft, session: Session) -> int:
    """Returns the draft's tokens as the provider counts them."""
    return held.size(session.count)


def compact(
    held: Draft, strategy: Strategy, session: Session, terms: Terms, start: int = 0
) -> SimulatedCompaction | None:
    """Compacts what stands behind the first `start` pieces, so that the whole has the strategy's budget.

    An edit that frees too little is not made: returns None, or what the compactor took for nothing.
    """
    before = draft_tokens(held, session)
    budget = max(1, round(strategy.budget / session.scale))
    plan = TextPlan(
        strategy.method,
        budget,
        keep_recent=terms.keep_recent,
        least_recent=terms.least_recent,
        gate=terms.gate,
        lookup=terms.lookup if terms.gate else "",
    )
    known = session.ledger(len(held.raw.turns)) if terms.gate else None
    done = rewrite_again(held, plan, _PlaceholderModel(session, terms.answer), frozen=start, known=known)
    spent = Usage(
        sum(reply.tokens_in for reply in done.replies), output=sum(reply.tokens_out for reply in done.replies)
    )
    pieces = done.draft.pieces
    freed = before - draft_tokens(done.draft, session)
    if not CircuitBreaker().gains_enough(before, before - freed):  # it would come again at every call
        return SimulatedCompaction(held, len(held.raw.turns), 0, spent) if spent.prompt else None
    same = next((i for i, (a, b) in enumerate(zip(held.pieces, pieces, strict=False)) if a.turn != b.turn), len(pieces))
    changed = [at for piece in held.pieces[same:] for at in piece.turns]
    instead = done.notes[0] if done.method != strategy.method else ""
    return SimulatedCompaction(done.draft, min(changed, default=0), freed, spent, start, instead)


def cut_candidates(held: Draft, session: Session, terms: Terms, parts: int = 4) -> Iterator[int]:
    """Yields positions where an edit could begin: the head, and exchanges that halve, quarter, … the tokens that may
    change.
    """
    free = Room(1, session.count, terms.keep_recent).free(held)
    sizes = [turn_size(held.pieces[at].turn, session.count) for at in free]
    whole, begins = sum(sizes), {start for start, _ in units(held)}
    yield 0
    done, part = 0, 1
    for at, tokens in zip(free, sizes, strict=True):
        if done >= whole * part / parts and at in begins:
            yield at
            part += 1
        done += tokens
