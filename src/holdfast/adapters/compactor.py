"""Compacts a history that grows from request to request: a stable prefix between compactions, and never a failure.

An agent's library hands its whole history over before every request. A `Compactor` remembers what it made of which
history, so that a request repeats the one before byte for byte (provider caches stay warm) and only grows; when it
passes the trigger, what stands is compacted on, not the raw turns again. Whatever goes wrong here is reported, and the
request goes out as it would have.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import TypeVar

from holdfast.engine.chat import Chat
from holdfast.errors import BadOption
from holdfast.methods.registry import build_text
from holdfast.session.trigger import TRIGGER, CircuitBreaker, due, history_status, history_trigger
from holdfast.text.rewrite import Rewritten, TextPlan, rewrite_again
from holdfast.transcript.draft import Draft, Piece, new_draft, units
from holdfast.transcript.token_estimate import estimate_tokens
from holdfast.transcript.turn import Transcript, Turn

Item = TypeVar("Item")

Decide = Callable[[Draft, TextPlan], int | None]
"""Called with a draft whose compaction is due, and the plan for it; returns the number of pieces at its head that stay
as they are, or None for no compaction now.
"""
_HISTORIES = 16  # remembered at once: forks, threads and sub-agents that share one compactor


class CompactionWarning(UserWarning):
    """A history could not be compacted and went out as it was."""


@dataclass(frozen=True)
class Standing:
    """The draft that one history was last compacted to, with its circuit breaker."""

    held: Draft
    breaker: CircuitBreaker


@dataclass(frozen=True)
class View:
    """A history as it is to be sent."""

    pieces: tuple[Piece, ...]
    places: Mapping[int, int]
    """The position of each raw turn in the history that was handed over."""

    @property
    def turns(self) -> tuple[Turn, ...]:
        return tuple(piece.turn for piece in self.pieces)

    def build(self, items: Sequence[Item], write: Callable[[Turn, Item | None], Item]) -> list[Item]:
        """Builds the items to send. `write` makes an item of a rewritten turn and of the item in whose
        place it stands.
        """
        return [self._item(piece, items, write) for piece in self.pieces]

    def place(self, piece: Piece) -> int | None:
        """Returns the position in that history of the turn in whose place the piece stands, or None."""
        return None if piece.at is None else self.places.get(piece.at)

    def _item(self, piece: Piece, items: Sequence[Item], write: Callable[[Turn, Item | None], Item]) -> Item:
        place = self.place(piece)
        original = None if place is None else items[place]
        return write(piece.turn, original) if piece.writer or original is None else original


@dataclass
class Compactor:
    """One for each agent. Safe to share between threads, sessions and forks: a history is known by its own turns."""

    plan: TextPlan | None = None
    """The plan of a compaction; None means `tiered` to half of the trigger, over it where the newest exchange needs it.
    """
    trigger: int = TRIGGER
    """Tokens of a history above which it is compacted."""
    window: int | None = None
    """Tokens that the model can read; the trigger is then at least a fifth of them."""
    chat: Chat | None = None
    """The model that writes summaries, for plans that need one."""
    breaker: CircuitBreaker = field(default_factory=CircuitBreaker)
    """The rule that stops compactions that gain nothing."""
    on_failure: Callable[[str], None] | None = None
    """Called with the reason of a failed compaction; None issues a CompactionWarning."""
    on_compaction: Callable[[Rewritten], None] | None = None
    """Called with every compaction: what it cost and what it lost."""

    def __post_init__(self) -> None:
        if self.trigger < 1 or (self.window is not None and self.window < 1):
            raise BadOption(f"trigger and window must be at least 1 token, got {self.trigger} and {self.window}")
        self._rule = history_trigger(self.trigger, self.window)
        self.trigger = self._rule.tokens or self.trigger
        self.plan = self.plan or TextPlan(budget=max(1, self.trigger // 2), least_recent=1)
        if self.plan.budget is not None and self.plan.budget >= self.trigger:
            raise BadOption(
                f"the budget ({self.plan.budget}) must be below the trigger ({self.trigger}), else every request "
                "compacts again"
            )
        build_text(self.plan.method)
        self._lock = Lock()
        self._known: list[Standing] = []  # the one used last stands last

    def apply(
        self,
        items: Sequence[Item],
        read: Callable[[Sequence[Item]], Sequence[Turn]],
        write: Callable[[Turn, Item | None], Item],
    ) -> list[Item]:
        """Compacts a library's own messages: `read` gives one turn for each, `write` is as in `View.build`.

        Messages that cannot be read or written go through as they are, and that is reported.
        """
        try:
            return self.view(read(items)).build(items, write)
        except Exception as error:
            self.report_failure(error)
            return list(items)

    def view(
        self,
        turns: Sequence[Turn],
        force: bool = False,
        *,
        moving: int = 0,
        lookup: str = "",
        decide: Decide | None = None,
    ) -> View:
        """Returns the history as it is to be sent now, compacted if it is due; `force` compacts below the trigger too.

        The newest exchange stays whole, whatever the plan says; the result is then over the budget, which it tells.
        The last `moving` turns will stand elsewhere in the next request: they stay verbatim, and what is remembered
        ends before them. `lookup` is that of the plan. `decide` has the last word on a compaction that is due. If a
        compaction fails, the history is sent as before.
        """
        standing, places = self._standing(turns)
        held = standing.held
        size = held.size(estimate_tokens)
        status = history_status(len(held.raw.turns), size, standing.breaker)
        if not force and due(status, self._rule) is None:
            return View(held.pieces, places)
        assert self.plan is not None
        tail, recent = max(1, _unstable_exchanges(held, moving)), self.plan.keep_recent  # the model must see the newest
        least = self.plan.least_recent
        plan = replace(
            self.plan,
            keep_recent=max(recent, tail),
            least_recent=least if least is None else max(least, tail),
            lookup=lookup if self.plan.gate else "",
        )
        frozen = decide(held, plan) if decide and not force else 0
        return View(held.pieces if frozen is None else self._compact(standing, size, plan, frozen, moving), places)

    def standing(self, turns: Sequence[Turn]) -> View:
        """Returns the history as it was last compacted, with the turns since; compacts nothing."""
        standing, places = self._standing(turns)
        return View(standing.held.pieces, places)

    def report_failure(self, error: Exception | str) -> None:
        """Reports that a history goes out as it was."""
        message = f"{type(error).__name__}: {error}" if isinstance(error, Exception) else error
        if self.on_failure:
            self.on_failure(message)
        else:
            warnings.warn(f"history not compacted: {message}", CompactionWarning, stacklevel=2)

    def _compact(self, standing: Standing, size: int, plan: TextPlan, frozen: int, moving: int) -> tuple[Piece, ...]:
        """Compacts the draft behind its first `frozen` pieces; returns the pieces that are to be sent now."""
        held, turns = standing.held, len(standing.held.raw.turns)
        done: Rewritten | None = None
        try:
            done = rewrite_again(held, plan, self.chat, frozen=frozen)
        except Exception as error:
            self.report_failure(error)
        breaker = standing.breaker.after(turns, size, done.tokens if done else None)
        if done is not None and breaker.failures:
            self.report_failure(
                f"{done.tokens_before} tokens would have become {done.tokens}, too little to break a cache for"
            )
        elif done is not None:
            held = done.draft
        with self._lock:
            self._remember(Standing(_without_tail(held, moving), breaker))
        if done is not None and not breaker.failures and self.on_compaction:
            self.on_compaction(done)
        return held.pieces

    def _standing(self, turns: Sequence[Turn]) -> tuple[Standing, dict[int, int]]:
        with self._lock:
            return self._find(tuple(turns))

    def _find(self, history: tuple[Turn, ...]) -> tuple[Standing, dict[int, int]]:
        """Returns the draft for this history, extended to its end, and the positions of its raw turns in the history.

        Some libraries hand over the raw history each time, others the history that they were given back.
        """
        fitting = [
            (known, start) for known in self._known if (start := _match_history(history, known.held)) is not None
        ]
        if not fitting:
            return Standing(new_draft(Transcript(history)), self.breaker), {at: at for at in range(len(history))}
        known, (length, places) = max(fitting, key=lambda found: len(found[0].held.raw.turns))
        self._remember(known)
        old, new = known.held, history[length:]
        first = len(old.raw.turns)
        raw = replace(old.raw, turns=(*old.raw.turns, *new))
        pieces = tuple(Piece(turn, (first + at,)) for at, turn in enumerate(new))
        grown = replace(old, raw=raw, pieces=(*old.pieces, *pieces))
        return replace(known, held=grown), places | {first + at: length + at for at in range(len(new))}

    def _remember(self, standing: Standing) -> None:
        self._known = [*(known for known in self._known if known is not standing), standing][-_HISTORIES:]


def _unstable_exchanges(held: Draft, moving: int) -> int:
    """Returns the number of newest exchanges that hold the last `moving` raw turns."""
    start = len(held.raw.turns) - moving
    return sum(
        any(at >= start for piece in held.pieces[first:stop] for at in piece.turns) for first, stop in units(held)
    )


def _without_tail(held: Draft, moving: int) -> Draft:
    """Returns the draft without its last `moving` raw turns, and without what stands before them in their exchange."""
    if not moving:
        return held
    whole = len(held.raw.turns) - moving
    stop = next(
        (at for at, piece in enumerate(held.pieces) if piece.at is not None and piece.at >= whole), len(held.pieces)
    )
    stop = next((first for first, end in units(held) if first < stop < end), stop)
    raw = min((at for piece in held.pieces[stop:] for at in piece.turns), default=whole)
    return replace(held, raw=replace(held.raw, turns=held.raw.turns[:raw]), pieces=held.pieces[:stop])


def _match_history(history: tuple[Turn, ...], held: Draft) -> tuple[int, dict[int, int]] | None:
    """Returns how many turns of a history belong to a draft, and the positions of its raw turns; None
    if they differ.
    """
    raw = held.raw.turns
    if history[: len(raw)] == raw:
        return len(raw), {at: at for at in range(len(raw))}
    if tuple(map(_without_source, history[: len(held.pieces)])) == tuple(map(_without_source, held.turns)):
        return len(held.pieces), {piece.at: at for at, piece in enumerate(held.pieces) if piece.at is not None}
    return None


def _without_source(turn: Turn) -> Turn:
    """Returns the turn without its position in a file."""
    return replace(turn, source=0)
