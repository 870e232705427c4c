"""The bill of a session: the money that its requests cost, beside what they would have cost as they came.

Both are counted on a simulated prompt cache at the prices of the request's model, by the estimate of tokens that the
trigger uses. The planner of `holdfast cost` reads the bill and says whether a compaction pays; what it guarantees
stands in `cost/planner.py`. A compaction that the model's window demands is made whatever it costs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from holdfast.cost.cache import SECONDS, Cache, Life, Prompt, Rules
from holdfast.cost.calls import Session
from holdfast.cost.compaction import Terms
from holdfast.cost.planner import Past
from holdfast.cost.prices import Prices
from holdfast.cost.replay import ask_planner
from holdfast.cost.replay_state import ReplayState
from holdfast.cost.strategy import Strategy
from holdfast.cost.usage import Usage
from holdfast.text.rewrite import TextPlan
from holdfast.transcript.draft import Draft, new_draft, turn_size
from holdfast.transcript.token_estimate import estimate_tokens
from holdfast.transcript.turn import Role, Transcript, Turn

WINDOW_SHARE = 0.75
"""Share of the model's window above which a history is compacted whatever that costs."""
GROWTH = 1.1
"""Times the tokens at which the planner last said no, above which it is asked again while the cache lives."""


@dataclass(frozen=True)
class Tariff:
    """The prices and the caching rules of one request."""

    prices: Prices
    rules: Rules = field(default_factory=Rules)
    overhead: int = 0
    """Tokens of the system prompt and the tools, which stand before every history."""
    window: int | None = None
    """Tokens that the model reads."""

    def full(self, tokens: int) -> bool:
        """Returns True if a history of `tokens` leaves the window too little room."""
        return self.window is not None and tokens + self.overhead > WINDOW_SHARE * self.window


@dataclass
class Bill:
    """The cost of one session so far; for one thread at a time."""

    cache: Cache | None = None
    raw_cache: Cache | None = None
    past: Past = field(default_factory=lambda: Past((), (), ()))
    _refused: int = 0
    """Tokens of the history at which the planner last said no; 0 if it has not."""

    @property
    def spent(self) -> float:
        """USD for the prompts that were sent, and for the compactor's model."""
        return self.past.spent

    @property
    def passing(self) -> float:
        """USD for the same prompts as they came."""
        return self.past.never

    def frozen_pieces(self, held: Draft, plan: TextPlan, trigger: int, tariff: Tariff, now: float) -> int | None:
        """Returns the pieces at the head that a compaction leaves as they are; None if none is to be made now."""
        size = held.size(estimate_tokens)
        if tariff.full(size):
            return 0
        warm = bool(self.past.times) and now - self.past.times[-1] <= SECONDS[tariff.rules.life]
        if warm and size < GROWTH * self._refused:
            return None
        session = _session_of(held.raw, tariff)
        terms = Terms(
            tariff.prices,
            rules=tariff.rules,
            keep_recent=plan.keep_recent,
            gate=plan.gate,
            least_recent=plan.least_recent,
            lookup=plan.lookup,
        )
        strategy = Strategy(plan.method, plan.method, True, "plan", trigger, plan.budget or trigger)
        world = ReplayState(held, self.cache or Cache(tariff.rules))
        never = ReplayState(new_draft(held.raw), self.raw_cache or Cache(tariff.rules))
        past = replace(self.past, next_at=now)
        advice = ask_planner(world, never, strategy, session, terms, past, hurried=True)
        pays = advice.when == "now" and advice.option is not None
        self._refused = 0 if pays else size
        return advice.option.made.start if pays and advice.option else None

    def charge(self, sent: Sequence[Turn], raw: Sequence[Turn], tariff: Tariff, now: float, compactor: Usage) -> None:
        """Adds a request that the upstream took."""
        session = _session_of(Transcript(tuple(raw)), tariff)
        self.cache, spent = _call(self.cache, session.prompt(sent), tariff, now)
        self.raw_cache, passing = _call(self.raw_cache, session.prompt(raw), tariff, now)
        money, never = tariff.prices.money, self.past.never + tariff.prices.money(passing)
        answer = next((turn for turn in reversed(raw) if turn.role is Role.ASSISTANT), None)
        past = self.past
        self.past = Past(
            (*past.prompts, passing.prompt),
            (*past.outputs, turn_size(answer, estimate_tokens) if answer else 0),
            (*past.times, now),
            past.spent + money(spent) + money(compactor),
            never,
        )


def _call(cache: Cache | None, sent: Prompt, tariff: Tariff, now: float) -> tuple[Cache, Usage]:
    return replace(cache or Cache(), rules=tariff.rules).call(sent, now)


def _session_of(raw: Transcript, tariff: Tariff) -> Session:
    """Returns a history as the planner reads one."""
    return Session(raw, (), tariff.overhead)


def rules_of(prices: Prices, marked: bool, life: Life) -> Rules:
    """Returns the caching rules of a request; a provider with breakpoints caches nothing without one."""
    if prices.caching == "explicit" and not marked:
        return Rules("off")
    return Rules(prices.caching, life)
