"""The one rule for when a session is compacted: `due`, a function of values, so that it can be tested and simulated.

A live session, the proxy with its adapters, and the simulation of `holdfast cost` all decide by it. Between `high` (the
trigger) and `low` nothing happens: a session that was compacted to `low` grows until it passes `high` again. A pause or
a mark of the caller may compact it sooner, never below `low`. The circuit breaker keeps it from being compacted again
and again for nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Literal

from holdfast.errors import BadOption

TRIGGER = 12_000
"""Tokens of a history behind an API above which it is compacted, unless its user says otherwise."""
WINDOW_SHARE = 0.2
"""Share of a model's window below which such a history is never compacted."""

Kind = Literal["force", "tokens", "window", "mark", "idle"]


@dataclass(frozen=True)
class Trigger:
    """The limits at which a session is compacted. A slot is what the cache holds for a token; a verbatim token has one.

    Behind an API the slots are the tokens of the history.
    """

    tokens: int | None = None
    """Slots above which a session is compacted."""
    window: float | None = 0.75
    """A limit as a fraction of the model's window; with `tokens`, the lower limit counts."""
    force: float = 0.95
    """Fraction of the window above which neither a cool-down, an open call nor a small gain holds a compaction back."""
    low: float = 0.5
    """Fraction of the trigger to which a session is compacted."""
    idle: float | None = None
    """Seconds without a request after which it is compacted in the background, if it holds more than `early`."""
    early: float = 0.75
    """Fraction of the trigger above which a pause is used."""
    boundary: bool = True
    """True: only if no tool call is open. Else also while tools run; a call and its result stay together either way."""
    marks: bool = True
    """True: a good place to compact that the caller marks is used."""

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
        """Returns the slots above which a session is compacted in a model with such a window; None without a limit."""
        shares = (self.window, self.force) if window is not None else ()
        limits = [int(share * (window or 0)) for share in shares if share is not None]
        return min(limits if self.tokens is None else [*limits, self.tokens], default=None)


def history_trigger(tokens: int, window: int | None = None) -> Trigger:
    """Returns the trigger of a history behind an API: at `tokens`, but not below a fifth of the model's window."""
    return Trigger(tokens=max(tokens, int(WINDOW_SHARE * (window or 0))), window=None)


@dataclass(frozen=True)
class CircuitBreaker:
    """The past attempts at one session, which hold the next one back. A value: `after` returns the next one."""

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
    """Tokens of the session at the last attempt."""

    def __post_init__(self) -> None:
        if self.cool_down < 0 or self.most_failures < 1 or not 0 <= self.least_gain < 1 or not self.growth > 1:
            raise BadOption(
                "a breaker needs cool_down of at least 0, most_failures of at least 1, least_gain from 0 to below 1 "
                f"and growth over 1, got {self.cool_down}, {self.most_failures}, {self.least_gain} and {self.growth}"
            )

    def refuses(self, turns: int, tokens: int) -> str:
        """Returns the reason why a session of `turns` and `tokens` must not be compacted now; empty if it may be."""
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

    def gains_enough(self, tokens: int, left: int) -> bool:
        """Returns True if a compaction from `tokens` to `left` is worth the prompt cache that it breaks."""
        return left <= tokens * (1 - self.least_gain)

    def after(self, turns: int, tokens: int, left: int | None) -> CircuitBreaker:
        """Returns the breaker after an attempt at a session of `turns` and `tokens`.

        `left` are its tokens after it; None if the attempt raised.
        """
        failed = left is None or not self.gains_enough(tokens, left)
        return replace(self, failures=self.failures + 1 if failed else 0, last=turns, tokens=tokens)


@dataclass(frozen=True)
class SessionStatus:
    """A session at the end of a turn, before a request, or while it rests."""

    turns: int
    held: int
    """Slots in the cache."""
    compactable: int
    """Slots of them that the policy lets go: not the newest turns, nothing that is pinned or to be preserved."""
    verbatim: int = 0
    """Slots of them that are tokens as they were read."""
    window: int | None = None
    """Slots that the model can hold; None without a limit."""
    idle_seconds: float = 0.0
    """Seconds since the last request was answered."""
    open_calls: int = 0
    """Tool calls without a result."""
    marked: bool = False
    """True if the caller marked this place since the last compaction."""
    breaker: CircuitBreaker = field(default_factory=CircuitBreaker)


def history_status(turns: int, tokens: int, breaker: CircuitBreaker) -> SessionStatus:
    """Returns the status of a history behind an API, which is sent whole with every request."""
    return SessionStatus(turns, tokens, tokens, verbatim=tokens, breaker=breaker)


@dataclass(frozen=True)
class CompactionReason:
    """The reason why a session is compacted now."""

    kind: Kind
    text: str
    """Words for the user."""
    target: int | None
    """Slots to compact to; None leaves it to the plan."""


def due(status: SessionStatus, trigger: Trigger) -> CompactionReason | None:
    """Returns the reason why a session is to be compacted now; None if it is not."""
    if status.compactable < 1:
        return None
    high, breaker = trigger.high(status.window), status.breaker
    if reason := _window_full(status, trigger, high):
        return reason
    if status.open_calls and trigger.boundary:
        return None
    if status.compactable < breaker.least_gain * (high or 0) or breaker.refuses(status.turns, status.held):
        return None
    return _over_trigger(status, trigger, high) or _at_mark(status, trigger, high) or _in_pause(status, trigger, high)


def _window_full(status: SessionStatus, trigger: Trigger, high: int | None) -> CompactionReason | None:
    """Returns the reason if the window is nearly full; after too many failures even that waits for the cool-down."""
    if status.window is None or status.held <= trigger.force * status.window:
        return None
    tired = status.breaker.failures >= status.breaker.most_failures
    if tired and replace(status.breaker, failures=0).refuses(status.turns, status.held):
        return None
    limit = f"more than {trigger.force:.0%} of the window of {status.window:,}"
    return _reason("force", limit, status, _target(trigger, high))


def _over_trigger(status: SessionStatus, trigger: Trigger, high: int | None) -> CompactionReason | None:
    if high is None or status.held <= high:
        return None
    if high == trigger.tokens:
        return _reason("tokens", f"more than the trigger of {high:,}", status, _target(trigger, high))
    limit = f"more than {trigger.window:.0%} of the window of {status.window:,}"
    return _reason("window", limit, status, _target(trigger, high))


def _at_mark(status: SessionStatus, trigger: Trigger, high: int | None) -> CompactionReason | None:
    target = _target(trigger, high)
    if not (trigger.marks and status.marked) or status.held <= (target or 0):
        return None
    return _reason("mark", "and the caller marked a good place to compact", status, target)


def _in_pause(status: SessionStatus, trigger: Trigger, high: int | None) -> CompactionReason | None:
    resting = trigger.idle is not None and status.idle_seconds >= trigger.idle
    if not resting or high is None or status.held <= trigger.early * high:
        return None
    rest = f"and nothing was asked for {status.idle_seconds:.0f} s"
    limit = f"more than {trigger.early:.0%} of the trigger of {high:,}, {rest}"
    return _reason("idle", limit, status, _target(trigger, high))


def _target(trigger: Trigger, high: int | None) -> int | None:
    return None if high is None else max(1, int(trigger.low * high))


def _reason(kind: Kind, limit: str, status: SessionStatus, target: int | None) -> CompactionReason:
    sizes = f"{status.verbatim:,} verbatim, {status.compactable:,} may be compacted"
    return CompactionReason(kind, f"{status.held:,} slots are held ({sizes}), {limit}", target)
