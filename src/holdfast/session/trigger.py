"""When a live session is compacted: a function of values, so that it can be tested, told and simulated.

Between `high` (the trigger) and `low` nothing happens: a session that was compacted to `low` grows until it passes
`high` again. A pause or a mark of the caller may compact it sooner, never below `low`. `CircuitBreaker` keeps it from
being compacted again and again for nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Literal

from holdfast.errors import BadOption

Kind = Literal["force", "tokens", "window", "mark", "idle"]


@dataclass(frozen=True)
class Trigger:
    """When to compact. A slot is what the cache holds for a token; a verbatim token has one."""

    tokens: int | None = None
    """Slots held above which a session is compacted."""
    window: float | None = 0.75
    """The same as a fraction of the model's window; with `tokens`, whichever is less."""
    force: float = 0.95
    """Fraction of the window above which neither a cool-down, a call that is open nor a small gain holds it back."""
    low: float = 0.5
    """What to compact to, as a fraction of the trigger."""
    idle: float | None = None
    """Seconds without a request after which it is compacted in the background, if it holds more than `early`."""
    early: float = 0.75
    """Fraction of the trigger above which a pause is used."""
    boundary: bool = True
    """Only where no tool call is open. Else also while tools run; a call is never parted from its result either way."""
    marks: bool = True
    """Heed the caller's mark of a good place to compact."""

    def __post_init__(self) -> None:
        if self.tokens is None and self.window is None:
            raise BadOption(
                "give tokens, a fraction of the window, or both; compact on request where there is no trigger"
            )
        if self.tokens is not None and self.tokens < 1:
            raise BadOption(f"tokens must be at least 1 slot, got {self.tokens}")
        if not 0 < self.force <= 1:
            raise BadOption(f"force must be above 0 and at most 1, the whole window, got {self.force}")
        if self.window is not None and not 0 < self.window <= self.force:
            raise BadOption(f"window must be above 0 and at most force ({self.force}), got {self.window}")
        if not 0 < self.low < self.early <= 1:
            raise BadOption(f"low and early must be 0 < low < early <= 1, got {self.low} and {self.early}")
        if self.idle is not None and not (math.isfinite(self.idle) and self.idle >= 0):
            raise BadOption(f"idle must be at least 0 seconds, got {self.idle}")

    def high(self, window: int | None) -> int | None:
        """Slots above which a session is compacted, in a model with such a window; None where nothing says."""
        shares = (self.window, self.force) if window is not None else ()
        limits = [int(share * (window or 0)) for share in shares if share is not None]
        return min(limits if self.tokens is None else [*limits, self.tokens], default=None)


@dataclass(frozen=True)
class CircuitBreaker:
    """Keeps a session's owner from compacting again and again for nothing. Asked before, told after; never changes."""

    cool_down: int = 3
    """Turns after a compaction in which there is none."""
    least_gain: float = 0.1
    """Share of the tokens that a compaction must save; one that saves less has failed."""
    most_failures: int = 3
    """Failures in a row after which there is none until the session has grown."""
    growth: float = 1.5
    """Times the tokens at the last attempt, above which there may be one whatever came before: one failure more, and it
    must grow as much again."""
    failures: int = 0
    last: int | None = None
    """Turns of the session at the last attempt."""
    tokens: int = 0
    """Of the session at the last attempt."""

    def __post_init__(self) -> None:
        if self.cool_down < 0 or self.most_failures < 1 or not 0 <= self.least_gain < 1 or not self.growth > 1:
            raise BadOption(
                "a breaker needs cool_down of at least 0, most_failures of at least 1, least_gain from 0 to below 1 "
                f"and growth over 1, got {self.cool_down}, {self.most_failures}, {self.least_gain} and {self.growth}"
            )

    def refuses(self, turns: int, tokens: int) -> str:
        """Why a session of so many turns and tokens must not be compacted now; empty where it may."""
        if tokens > self.growth * self.tokens:
            return ""
        if self.failures >= self.most_failures:
            return (
                f"{self.failures} compactions in a row failed or saved less than {self.least_gain:.0%}; the next may "
                f"be above {int(self.growth * self.tokens):,} tokens"
            )
        if self.last is not None and turns - self.last < self.cool_down:
            return f"the last compaction was {turns - self.last} turns ago; the next may be after {self.cool_down}"
        return ""

    def after(self, turns: int, tokens: int, left: int | None) -> CircuitBreaker:
        """Returns the breaker after an attempt at a session of `turns` and `tokens`.

        `left` are its tokens after it; None if the attempt raised.
        """
        gained = left is not None and left <= tokens * (1 - self.least_gain)
        return replace(self, failures=0 if gained else self.failures + 1, last=turns, tokens=tokens)


@dataclass(frozen=True)
class SessionStatus:
    """What is known of a session at the end of a turn, or while it rests."""

    turns: int
    held: int
    """Slots in the cache."""
    compactable: int
    """Of them, those that the policy lets go: not the newest turns, not what is pinned or to be preserved."""
    verbatim: int = 0
    """Of them, tokens as they were read."""
    window: int | None = None
    """Slots that the model can hold; None where it has no limit."""
    idle_seconds: float = 0.0
    """Since the last request was answered."""
    open_calls: int = 0
    """Tool calls without a result."""
    marked: bool = False
    """The caller marked this place since the last compaction."""
    breaker: CircuitBreaker = field(default_factory=CircuitBreaker)


@dataclass(frozen=True)
class CompactionReason:
    """Why a session is compacted now."""

    kind: Kind
    text: str
    """For the user."""
    target: int | None
    """Slots to compact to; None leaves it to the plan."""


def due(state: SessionStatus, trigger: Trigger) -> CompactionReason | None:
    """Why a session is to be compacted now; None where it is not."""
    if state.compactable < 1:
        return None
    high = trigger.high(state.window)
    if forced := _forced(state, trigger, high):
        return forced
    if state.open_calls and trigger.boundary:
        return None
    if state.compactable < state.breaker.least_gain * (high or 0) or state.breaker.refuses(state.turns, state.held):
        return None
    return _pressed(state, trigger, high) or _marked(state, trigger, high) or _resting(state, trigger, high)


def _forced(state: SessionStatus, trigger: Trigger, high: int | None) -> CompactionReason | None:
    """The window is nearly full. After too many failures in a row even that waits for the cool-down."""
    if state.window is None or state.held <= trigger.force * state.window:
        return None
    tired = state.breaker.failures >= state.breaker.most_failures
    if tired and replace(state.breaker, failures=0).refuses(state.turns, state.held):
        return None
    what = f"more than {trigger.force:.0%} of the window of {state.window:,}"
    return _why("force", what, state, _target(trigger, high))


def _pressed(state: SessionStatus, trigger: Trigger, high: int | None) -> CompactionReason | None:
    if high is None or state.held <= high:
        return None
    if high == trigger.tokens:
        return _why("tokens", f"more than the trigger of {high:,}", state, _target(trigger, high))
    what = f"more than {trigger.window:.0%} of the window of {state.window:,}"
    return _why("window", what, state, _target(trigger, high))


def _marked(state: SessionStatus, trigger: Trigger, high: int | None) -> CompactionReason | None:
    target = _target(trigger, high)
    if not (trigger.marks and state.marked) or state.held <= (target or 0):
        return None
    return _why("mark", "and the caller marked a good place to compact", state, target)


def _resting(state: SessionStatus, trigger: Trigger, high: int | None) -> CompactionReason | None:
    if trigger.idle is None or state.idle_seconds < trigger.idle or high is None or state.held <= trigger.early * high:
        return None
    rest = f"and nothing was asked for {state.idle_seconds:.0f} s"
    what = f"more than {trigger.early:.0%} of the trigger of {high:,}, {rest}"
    return _why("idle", what, state, _target(trigger, high))


def _target(trigger: Trigger, high: int | None) -> int | None:
    return None if high is None else max(1, int(trigger.low * high))


def _why(kind: Kind, what: str, state: SessionStatus, target: int | None) -> CompactionReason:
    held = f"{state.held:,} slots are held ({state.verbatim:,} verbatim, {state.compactable:,} may be compacted)"
    return CompactionReason(kind, f"{held}, {what}", target)
