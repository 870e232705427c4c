"""The cost of a recorded session as it was run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from holdfast.cost.cache import Cache, Life, Rules
from holdfast.cost.calls import SECONDS_PER_TURN, Session, read_session
from holdfast.cost.prices import Prices
from holdfast.cost.usage import Usage, sum_usage
from holdfast.transcript.turn import Transcript


@dataclass(frozen=True)
class SessionCost:
    """Tokens and money of a session, prompt cache counted."""

    model: str
    """The model whose prices were used."""
    calls: tuple[Usage, ...]
    money: float
    """USD."""
    uncached: float
    """USD of the same prompts and answers with no prompt cache: what `money` is to be compared with."""
    basis: Literal["recorded", "simulated"]
    """The source of the cache counts: recorded in the file, or a simulated cache."""

    @property
    def usage(self) -> Usage:
        return sum_usage(self.calls)


def session_cost(
    transcript: Transcript, prices: Prices, ttl: Life = "5m", seconds_per_turn: float = SECONDS_PER_TURN
) -> SessionCost:
    """Returns the cost of the session at these prices: by its recorded usage, cache counts included, if every call has
    it.
    """
    known = read_session(transcript, seconds_per_turn)
    said = [call.recorded for call in known.calls if call.recorded]
    all_said = len(said) == len(known.calls) and any(usage.prompt > usage.input for usage in said)
    prompts = said if all_said else _simulate_cache(known, Cache(Rules(prices.caching, ttl)))
    usages = tuple(replace(u, output=call.output) for u, call in zip(prompts, known.calls, strict=True))
    money = sum(prices.money(usage) for usage in usages)
    uncached = sum(prices.money(Usage(input=usage.prompt, output=usage.output)) for usage in usages)
    return SessionCost(prices.model, usages, money, uncached, "recorded" if all_said else "simulated")


def _simulate_cache(known: Session, cache: Cache) -> list[Usage]:
    usages = []
    for call in known.calls:
        cache, usage = cache.call(known.prompt(known.transcript.turns[: call.turn]), call.at)
        usages.append(usage)
    return usages
