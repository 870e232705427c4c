"""One compaction inside a replay: the method's own code, on the session as it is sent now.

No model is called. A method that asks one gets an answer of the length that the terms state, and what it would have
read and written is counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from holdfast.cost.cache import Rules
from holdfast.cost.calls import Session
from holdfast.cost.prices import Prices
from holdfast.cost.strategy import Strategy
from holdfast.cost.usage import Usage
from holdfast.engine.chat import Reply
from holdfast.errors import BadOption, Failed
from holdfast.methods.registry import build_text
from holdfast.methods.text.base import Room
from holdfast.transcript.draft import Draft, turn_size, units

ANSWER = 0.1
"""Of what a compactor reads, how much it writes."""
ANSWER_HEAD = "## State and next step\n"
FALLBACK = "tiered"
"""What compacts where a model's answer cannot be used, or there is no room for one."""
MINIMUM_GAIN = 0.1
"""A compaction that frees less of the session is not made: it would come again at every call."""


@dataclass(frozen=True)
class Terms:
    """What a replay assumes."""

    prices: Prices
    compactor: Prices | None = None
    """Of the model that compacts; None: the same model."""
    rules: Rules = field(default_factory=Rules)
    keep_recent: int = 3
    answer: float = ANSWER
    reread: float = 0.0
    """Of the tokens that a compaction takes out, how many the agent reads again at once, with one more call."""
    risk: float = 0.0
    """What the planner may spend ahead of its savings, as a share of what never compacting has cost so far."""
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
        """USD of what a compactor read and wrote."""
        return (self.compactor or self.prices).money(usage)


@dataclass(frozen=True)
class Compacted:
    """A session after one compaction."""

    draft: Draft
    cut: int
    """The earliest 0-based turn of the session whose bytes changed: all before it is still in the cache."""
    freed: int
    """Tokens."""
    compactor: Usage = field(default_factory=Usage)


@dataclass
class _Assumed:
    """Answers with notes that say nothing, as long as the terms say; counts what it is given and what it writes."""

    session: Session
    share: float
    spent: Usage = field(default_factory=Usage)
    name: str = "assumed"

    def __call__(self, system: str, prompt: str, max_tokens: int, timeout: float) -> Reply:
        read = self.session.count(system) + self.session.count(prompt)
        room = max(1, min(max_tokens, round(read * self.share)))
        text = ANSWER_HEAD + "\n".join(f"- {' '.join(['note'] * 15)}" for _ in range(max(1, round(room / 16))))
        self.spent += Usage(input=read, output=room)
        return Reply(text, read, room)


def size(held: Draft, session: Session) -> int:
    """Tokens of what the file holds, as the provider counts them."""
    return held.size(session.count)


def compact(held: Draft, strategy: Strategy, session: Session, terms: Terms, start: int = 0) -> Compacted | None:
    """Compact `held.pieces[start:]` to the strategy's budget.

    An edit that frees too little is not made: None, or what the compactor took for nothing.
    """
    before = size(held, session)
    frozen = sum(turn_size(piece.turn, session.count) for piece in held.pieces[:start])
    chat = _Assumed(session, terms.answer)
    room = Room(max(1, strategy.budget - frozen), session.count, terms.keep_recent, chat)
    part = replace(held, pieces=held.pieces[start:])
    made = part if room.fits(part) else _rewritten(part, strategy.method, room)
    pieces = (*held.pieces[:start], *made.pieces)
    after = replace(held, pieces=pieces)
    freed = before - size(after, session)
    if freed < MINIMUM_GAIN * before:
        return Compacted(held, len(held.raw.turns), 0, chat.spent) if chat.spent.prompt else None
    same = next((i for i, (a, b) in enumerate(zip(held.pieces, pieces, strict=False)) if a.turn != b.turn), len(pieces))
    changed = [at for piece in held.pieces[same:] for at in piece.turns]
    return Compacted(after, min(changed, default=0), freed, chat.spent)


def _rewritten(part: Draft, method: str, room: Room) -> Draft:
    try:
        return build_text(method).rewrite(part, room)
    except Failed:
        return build_text(FALLBACK).rewrite(part, room)


def starts(held: Draft, session: Session, terms: Terms, parts: int = 4) -> Iterator[int]:
    """Where an edit could begin: at the head, and at exchanges that halve, quarter, … the tokens that may change."""
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
