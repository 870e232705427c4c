"""The strategies of a replay: whether the prompt cache is used, which method compacts, and when."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from holdfast.errors import BadOption
from holdfast.methods.registry import build_text
from holdfast.session.trigger import TRIGGER

BUDGET_SHARE = 4
"""A compaction aims at the trigger divided by this."""

When = Literal["trigger", "plan", "best"]
_WHEN: dict[str, When] = {"cache": "trigger", "plan": "plan", "best": "best"}


@dataclass(frozen=True)
class Strategy:
    """One row of the table."""

    spec: str
    """The strategy as the user wrote it."""
    method: str = ""
    """Text method, as `NAME:key=value,…`; empty where nothing is compacted."""
    cached: bool = False
    when: When = "trigger"
    """At every prompt above the trigger; or, above it, when the planner says; or on the best schedule in hindsight."""
    trigger: int = TRIGGER
    """Tokens of what the file holds, not of what stands around it."""
    budget: int = TRIGGER // BUDGET_SHARE


def parse_strategies(text: str, trigger: int = TRIGGER, budget: int | None = None) -> tuple[Strategy, ...]:
    """Parses `none,cache,METHOD,cache+METHOD,plan+METHOD,best+METHOD@TRIGGER/BUDGET,…`.

    A method's options keep their commas. Raises BadOption for what is not a strategy.
    """
    parts: list[str] = []
    for part in filter(None, (p.strip() for p in text.split(","))):
        if parts and "=" in part.partition(":")[0]:
            parts[-1] += f",{part}"
        else:
            parts.append(part)
    if not parts:
        raise BadOption("give at least one strategy, e.g. none,cache,cache+truncate")
    return tuple(_strategy(part, trigger, budget) for part in dict.fromkeys(parts))


def _strategy(spec: str, trigger: int, budget: int | None) -> Strategy:
    if spec in ("none", "cache"):
        return Strategy(spec, cached=spec == "cache", trigger=trigger)
    rest, at, limits = spec.rpartition("@")
    named, kept = (rest, limits.partition("/")) if at else (spec, ("", "", ""))
    how, plus, method = named.partition("+")
    if not plus or how not in _WHEN:  # a method's own options may hold a +
        how, method = "", named
    build_text(method)
    own = _tokens(spec, kept[0]) if at else trigger
    aim = _tokens(spec, kept[2]) if kept[1] else (own // BUDGET_SHARE if at or budget is None else budget)
    if own < 1:
        raise BadOption(f"{spec}: the trigger must be at least 1 token, got {own}; 12000 is the default")
    if not 1 <= aim <= own:
        raise BadOption(f"{spec}: the budget must be from 1 to the trigger of {own} tokens, got {aim}")
    return Strategy(spec, method, bool(how), _WHEN.get(how, "trigger"), own, aim)


def _tokens(spec: str, text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise BadOption(f"{spec}: after the @ stands TRIGGER or TRIGGER/BUDGET in tokens, got {text!r}")
    return int(text)
