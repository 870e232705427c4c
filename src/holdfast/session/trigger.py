"""When a live session is compacted: a function of values, so that it can be tested, told and simulated.

Between `high` (the trigger) and `low` nothing happens: a session that was compacted to `low` grows until it passes
`high` again. A pause or a mark of the caller may compact it sooner, never below `low`. `textual.Breaker` keeps it from
being compacted again and again for nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Literal

from holdfast.errors import BadOption
from holdfast.text.rewrite import Breaker

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
class Seen:
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
    breaker: Breaker = field(default_factory=Breaker)


@dataclass(frozen=True)
class Saved:
    """What a compaction did, as the breaker asks for it: slots held before and after."""

    tokens_before: int
    tokens: int


@dataclass(frozen=True)
class Why:
    """Why a session is compacted now."""

    kind: Kind
    text: str
    """For the user."""
    target: int | None
    """Slots to compact to; None leaves it to the plan."""


def due(state: Seen, trigger: Trigger) -> Why | None:
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


def _forced(state: Seen, trigger: Trigger, high: int | None) -> Why | None:
    """The window is nearly full. After too many failures in a row even that waits for the cool-down."""
    if state.window is None or state.held <= trigger.force * state.window:
        return None
    tired = state.breaker.failures >= state.breaker.most_failures
    if tired and replace(state.breaker, failures=0).refuses(state.turns, state.held):
        return None
    what = f"more than {trigger.force:.0%} of the window of {state.window:,}"
    return _why("force", what, state, _target(trigger, high))


def _pressed(state: Seen, trigger: Trigger, high: int | None) -> Why | None:
    if high is None or state.held <= high:
        return None
    if high == trigger.tokens:
        return _why("tokens", f"more than the trigger of {high:,}", state, _target(trigger, high))
    what = f"more than {trigger.window:.0%} of the window of {state.window:,}"
    return _why("window", what, state, _target(trigger, high))


def _marked(state: Seen, trigger: Trigger, high: int | None) -> Why | None:
    target = _target(trigger, high)
    if not (trigger.marks and state.marked) or state.held <= (target or 0):
        return None
    return _why("mark", "and the caller marked a good place to compact", state, target)


def _resting(state: Seen, trigger: Trigger, high: int | None) -> Why | None:
    if trigger.idle is None or state.idle_seconds < trigger.idle or high is None or state.held <= trigger.early * high:
        return None
    rest = f"and nothing was asked for {state.idle_seconds:.0f} s"
    what = f"more than {trigger.early:.0%} of the trigger of {high:,}, {rest}"
    return _why("idle", what, state, _target(trigger, high))


def _target(trigger: Trigger, high: int | None) -> int | None:
    return None if high is None else max(1, int(trigger.low * high))


def _why(kind: Kind, what: str, state: Seen, target: int | None) -> Why:
    held = f"{state.held:,} slots are held ({state.verbatim:,} verbatim, {state.compactable:,} may be compacted)"
    return Why(kind, f"{held}, {what}", target)
