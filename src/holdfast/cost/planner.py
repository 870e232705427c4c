"""The planner: whether to compact now, and where to cut, given what is cached: money and seconds of each choice.

The rule. Before call k let N and A be the money that never compacting and this advice have cost so far; N is known,
because the counterfactual's prompts and cache are replayed beside the real ones. An option (a rewrite of the session
from some turn on) is admitted only if
  (a) its compactor's price plus call k after it, less call k of the counterfactual, is at most
      (N - A) + risk x (N + call k of the counterfactual); and
  (b) the prompt after it is at least the minimum cacheable length, and under automatic caching so much shorter than
      the counterfactual's that reading the difference outweighs a whole step of rounding.
Of the admitted options the one with the largest expected gain over the horizon is advised, if that gain is positive.

What it guarantees. A <= (1 + risk) x N after every call, so wherever the session ends; at risk 0 (the default)
following the advice never costs more than never compacting. Proof by induction over calls. At a compaction this is
(a). At any other call both worlds append the same turns to their last prompts and send them at the same second. Both
last prompts are at least the minimum (b), so both were cached, renewed at the same time, and are now both alive or
both gone. Alive: the call reads a prefix that is no longer than the counterfactual's and writes the same new tokens
(automatic: the rounding may cost one step, which (b) covers). Gone: it writes fewer. The answer is the same. Prices
per token do not fall with the length of the prompt. So the difference N - A never shrinks except in (a).

So the first compaction is made only where it pays for itself in the very next call: with no cache, with a cache that
has died (a break longer than its life), or where what goes is so much more than what is written anew that the reads
saved at once are dearer (12.5 times with Anthropic's prices). From then on the savings realised pay for more. An
advice that invests before it has saved anything loses whenever the session ends the next moment; `risk` allows that
up to a stated share. What the rule assumes: the agent makes the same calls either way (an agent that reads again what
was taken out costs more: `reread` in the replay), and a compactor's price that is known before it runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

from holdfast.cost.cache import SECONDS, Cache, Prompt, count_shared_blocks
from holdfast.cost.compaction import SimulatedCompaction, Terms
from holdfast.cost.prices import Prices, Rates
from holdfast.cost.usage import Usage


@dataclass(frozen=True)
class Speeds:
    """Tokens per second that are assumed."""

    prefill: float = 4_000
    cached: float = 40_000
    output: float = 80

    def seconds(self, usage: Usage) -> float:
        fresh = usage.prompt - usage.cached
        return fresh / self.prefill + usage.cached / self.cached + usage.output / self.output


SPEEDS = Speeds()


@dataclass(frozen=True)
class Spent:
    """Money (USD) and seconds."""

    money: float
    seconds: float

    def __add__(self, other: Spent) -> Spent:
        return Spent(self.money + other.money, self.seconds + other.seconds)


@dataclass(frozen=True)
class Past:
    """The calls so far."""

    prompts: tuple[int, ...]
    """Tokens of each prompt if nothing had been compacted."""
    outputs: tuple[int, ...]
    times: tuple[float, ...]
    spent: float = 0.0
    """USD so far, compactors included."""
    never: float = 0.0
    """USD that never compacting would have cost so far."""

    next_at: float | None = None
    """The time of the next call, if it is known."""

    @property
    def at(self) -> float:
        """The time of the next call; after the usual gap if it is not known."""
        if self.next_at is not None:
            return self.next_at
        return self.times[-1] + self.gap if self.times else 0.0

    @property
    def growth(self) -> float:
        """Tokens by which a prompt is longer than the one before."""
        return (self.prompts[-1] - self.prompts[0]) / (len(self.prompts) - 1) if len(self.prompts) > 1 else 0.0

    @property
    def output(self) -> float:
        return sum(self.outputs) / len(self.outputs) if self.outputs else 0.0

    @property
    def gap(self) -> float:
        """Seconds from call to call, usually."""
        return median(b - a for a, b in zip(self.times, self.times[1:], strict=False)) if len(self.times) > 1 else 0.0


@dataclass(frozen=True)
class Now:
    """The call that is about to be made."""

    sent: Prompt
    """Its prompt if nothing is done."""
    cache: Cache
    uncompacted: Prompt
    """Its prompt if nothing had ever been compacted, and the cache of that world."""
    uncompacted_cache: Cache
    past: Past


@dataclass(frozen=True)
class Option:
    """One compaction that could be made now, and the prompt after it."""

    made: SimulatedCompaction
    sent: Prompt


@dataclass(frozen=True)
class Advice:
    """The advice before the next call."""

    when: Literal["now", "later", "never"]
    option: Option | None
    """The option to take now, or that would be taken later; its `made.cut` is the earliest turn that changes."""
    extra: float
    """USD that the option costs in the next call, its compactor included, beyond never compacting."""
    allowed: float
    """USD that it may cost: the savings so far, and the risk."""
    now: Spent
    later: Spent
    never: Spent
    """Expected over the horizon."""
    calls: int
    """The horizon."""
    reason: str


def advise(now: Now, options: Sequence[Option], terms: Terms, speeds: Speeds = SPEEDS) -> Advice:
    """Advises what to do before this call."""
    calls = terms.remaining or max(1, len(now.past.prompts))
    _, usage = now.uncompacted_cache.call(now.uncompacted, now.past.at)
    never_call = terms.prices.money(usage)
    allowed = now.past.never - now.past.spent + terms.risk * (now.past.never + never_call)
    judged = [_Judgement(option, _extra_money(now, option, never_call, terms)) for option in options]
    never = _expect(now, None, None, calls, terms, speeds)

    def gain(held: _Judgement) -> float:
        return never.money - _expect(now, held.option, 0, calls, terms, speeds).money

    paying = sorted((held for held in judged if gain(held) > 0), key=gain, reverse=True)
    safe = [held for held in paying if held.extra <= allowed and dominates(now, held.option, terms)]
    if not judged or not paying:
        reason = "nothing to take out" if not judged else f"no cut pays for itself within {calls} calls"
        return Advice("never", None, 0.0, allowed, never, never, never, calls, reason)
    best = (safe or paying)[0]
    spent = _expect(now, best.option, 0, calls, terms, speeds)
    later = min(
        (_expect(now, best.option, delay, calls, terms, speeds) for delay in range(1, calls + 1)),
        key=lambda held: held.money,
    )
    if safe:
        return Advice("now", best.option, best.extra, allowed, spent, later, never, calls, "paid for by savings")
    why = "it would cost more in this call than has been saved so far; wait until the cache has died or more is cached"
    return Advice("later", best.option, best.extra, allowed, spent, later, never, calls, why)


@dataclass(frozen=True)
class _Judgement:
    option: Option
    extra: float


def _extra_money(now: Now, option: Option, never_call: float, terms: Terms) -> float:
    """Returns the USD of the compactor and of this call after it, less this call of the counterfactual."""
    _, usage = now.cache.call(option.sent, now.past.at)
    return terms.compactor_money(option.made.compactor) + terms.prices.money(usage) - never_call


def dominates(now: Now, option: Option, terms: Terms) -> bool:
    """Returns True if no later call can cost more than the counterfactual's: part (b) of the rule."""
    rules, kept = terms.rules, option.sent.tokens
    saved = now.uncompacted.tokens - kept
    if rules.caching == "off":
        return saved >= 0
    if kept < rules.minimum or saved < 0:
        return False
    if rules.caching == "explicit":
        return True
    return all(_rounding(rates) * (rules.step - 1) <= saved * rates.cache_read for rates in _all_rates(terms.prices))


def _rounding(rates: Rates) -> float:
    return abs(rates.input - rates.cache_read)


def _all_rates(prices: Prices) -> list[Rates]:
    return [prices.rates, *(rates for _, rates in prices.tiers)]


def _expect(now: Now, option: Option | None, at: int | None, calls: int, terms: Terms, speeds: Speeds) -> Spent:
    """Returns money and seconds of this call and those that are expected, with `option` taken after `at` of them."""
    growth, output = now.past.growth, round(now.past.output)
    warm = now.past.gap <= SECONDS[terms.rules.life] and terms.rules.caching != "off"
    sent = option.sent if option and at == 0 else now.sent
    _, first = now.cache.call(sent, now.past.at)
    spent, tokens = _spent(first + Usage(output=output), terms.prices, speeds), float(sent.tokens)
    if option and at == 0:
        spent += _compactor_money(option, 1.0, terms, speeds)
    for call in range(1, calls):
        before, tokens, cut = tokens, tokens + growth, 0.0
        if option and call == at:
            cut = tokens * (1 - option.sent.tokens / max(1, now.sent.tokens))
            spent += _compactor_money(option, tokens / max(1, now.sent.tokens), terms, speeds)
        tokens -= cut
        kept = _stable_tokens(now, option) if option and call == at else before
        read = min(round(kept), round(tokens)) if warm else 0
        spent += _spent(_bill(round(tokens), read, output, terms), terms.prices, speeds)
    return spent


def _stable_tokens(now: Now, option: Option) -> int:
    """Returns the tokens before the earliest change."""
    same = count_shared_blocks(now.sent, option.sent)
    return now.sent.marks[same - 1].tokens if same else 0


def _bill(tokens: int, read: int, output: int, terms: Terms) -> Usage:
    fresh = tokens - read
    if terms.rules.caching != "explicit":
        return Usage(input=fresh, cached=read, output=output)
    wrote = {"written_1h" if terms.rules.life == "1h" else "written": fresh}
    return Usage(cached=read, output=output, **wrote)


def _compactor_money(option: Option, times: float, terms: Terms, speeds: Speeds) -> Spent:
    """Returns a compactor's price for a session `times` times as long."""
    one = option.made.compactor
    usage = Usage(input=round(one.input * times), output=round(one.output * times))
    return Spent(terms.compactor_money(usage), speeds.seconds(usage))


def _spent(usage: Usage, prices: Prices, speeds: Speeds) -> Spent:
    return Spent(prices.money(usage), speeds.seconds(usage))
