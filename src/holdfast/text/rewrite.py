"""Text-level compaction: a method rewrites the session, the gate says what the result no longer holds.

For models behind an API, where only text can be changed. Loads no model library.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

from holdfast.engine.chat import Chat, Metered, Reply
from holdfast.errors import BadOption, BadTranscript, Failed
from holdfast.facts.ledger import Ledger, ledger
from holdfast.gate.text.gate import TextReport, check, reserve, without_section
from holdfast.methods.registry import TEXT, build_text
from holdfast.methods.text.base import Room
from holdfast.text.split_messages import unfolded
from holdfast.transcript.cuts import check_legal
from holdfast.transcript.draft import Draft, draft
from holdfast.transcript.token_estimate import count
from holdfast.transcript.turn import Transcript


@dataclass(frozen=True)
class TextPlan:
    """How a session is rewritten."""

    method: str = "tiered"
    """`NAME` or `NAME:key=value,…`."""
    budget: int | None = None
    """Tokens of the whole result."""
    ratio: float | None = None
    """Or: so many times fewer tokens than the session has."""
    keep_recent: int = 3
    """Newest exchanges that stay verbatim."""
    gate: bool = True
    """Put back what would be lost, and strike what is not so."""
    strict: bool = False
    """Raise Lost where a fact is still lost at the end."""
    allow_over: float = 0.0
    """Part of the budget by which what is put back may exceed it."""

    def __post_init__(self) -> None:
        if (self.budget is None) == (self.ratio is None):
            raise BadOption("give either a budget in tokens or a ratio")
        if self.budget is not None and self.budget < 1:
            raise BadOption(f"the budget must be at least 1 token, got {self.budget}")
        if self.ratio is not None and not (math.isfinite(self.ratio) and self.ratio >= 1):
            raise BadOption(f"the ratio must be at least 1, got {self.ratio}")
        if self.keep_recent < 0:
            raise BadOption(f"keep_recent must be at least 0, got {self.keep_recent}")
        if not 0 <= self.allow_over <= 1:
            raise BadOption(f"allow_over must be between 0 and 1 of the budget, got {self.allow_over}")
        if not self.gate and (self.strict or self.allow_over):
            raise BadOption("strict and allow_over are of the gate; leave the gate on")


@dataclass(frozen=True)
class Rewritten:
    """A compaction and what it took."""

    draft: Draft
    tokens_before: int
    tokens: int
    budget: int
    seconds: float
    report: TextReport | None = None
    """What the gate saw; None where it was off, or the session fitted."""
    method: str = ""
    """The method whose result this is; empty where nothing was rewritten."""
    notes: tuple[str, ...] = ()
    """What the methods have to say, and why it is not the method that was asked for, or not within the budget."""
    replies: tuple[Reply, ...] = ()
    """What the compactor was asked, with its own tokens and seconds; also where its answer was of no use."""


class Sized(Protocol):
    """What a breaker needs to know of a compaction, be it of a text or of a cache."""

    @property
    def tokens_before(self) -> int: ...
    @property
    def tokens(self) -> int: ...


@dataclass(frozen=True)
class Breaker:
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

    def after(self, turns: int, tokens: int, done: Sized | None) -> Breaker:
        """The breaker after an attempt at a session of so many turns and tokens; `done` is None where it raised."""
        gained = done is not None and done.tokens <= done.tokens_before * (1 - self.least_gain)
        return replace(self, failures=0 if gained else self.failures + 1, last=turns, tokens=tokens)


def rewrite(transcript: Transcript, plan: TextPlan, chat: Chat | None = None) -> Rewritten:
    """Rewrite a session by plan.

    Raises BadOption for an unknown method, BadTranscript for an illegal session, Lost where a strict gate found losses.
    """
    return rewrite_again(draft(transcript), plan, chat)


def rewrite_again(
    held: Draft, plan: TextPlan, chat: Chat | None = None, *, frozen: int = 0, known: Ledger | None = None
) -> Rewritten:
    """Rewrite a session that may have been rewritten before. A method that fails gives way to a deterministic one.

    The first `frozen` pieces stay as they are. `known` is the ledger of `held.raw`, where the caller has it.
    """
    build_text(plan.method)
    check_legal(held.turns)
    began = time.perf_counter()
    before = held.size(count)
    budget = plan.budget if plan.budget is not None else max(1, int(before / (plan.ratio or 1)))
    metered = Metered(chat) if chat else None
    room = Room(budget, count, plan.keep_recent, metered, frozen)
    if room.fits(held):
        return Rewritten(held, before, before, budget, time.perf_counter() - began)
    known = (known or ledger(held.raw)) if plan.gate else None
    made, method, notes = _attempt(_behind(held, frozen, unfolded), plan, room, known)
    report = None
    if known is not None:
        made, report = check(made, known, room, allow_over=plan.allow_over)
    tokens = made.size(count)
    if tokens >= before:
        made, tokens, method = held, before, ""
        notes = (*notes, "nothing was gained, so the session stays as it was")
        report = TextReport() if known is not None else None
    if tokens > budget:
        notes = (*notes, _over(tokens - budget, report, plan.allow_over))
    if plan.strict and report:
        report.refuse()
    replies = tuple(metered.replies) if metered else ()
    seconds = time.perf_counter() - began
    return Rewritten(made, before, tokens, budget, seconds, report, method, notes, replies)


def _over(tokens: int, report: TextReport | None, allowed: float) -> str:
    """Why a result is so many tokens over its budget."""
    if report and report.rules and tokens <= report.section:
        return (
            f"{tokens:,} tokens over the budget: {report.rules} rules of the user come back whatever it is, and take "
            f"{report.section:,} tokens"
        )
    if allowed and report and tokens <= report.section:
        return f"{tokens:,} tokens over the budget for facts that were put back; {allowed:.0%} of it was allowed"
    return f"{tokens:,} tokens over the budget: the rest may not be dropped"


def _behind(held: Draft, start: int, change: Callable[[Draft], Draft]) -> Draft:
    """The draft with a change to what stands behind its first `start` pieces."""
    if not start:
        return change(held)
    rest = change(replace(held, pieces=held.pieces[start:]))
    return replace(rest, pieces=(*held.pieces[:start], *rest.pieces))


FALLBACKS = ("tiered", "truncate")
"""Deterministic methods for when the one that was asked for fails, in this order."""


def _attempt(held: Draft, plan: TextPlan, room: Room, known: Ledger | None) -> tuple[Draft, str, tuple[str, ...]]:
    """The result of the first method that gives a good one, its name, and why others did not."""
    bare = _behind(held, room.frozen, without_section) if known else held
    left = reserve(bare, known, room) if known else 0
    inner = replace(room, budget=max(1, room.budget - left))
    notes: tuple[str, ...] = ()
    for spec in _methods(plan.method):
        try:
            made = bare if inner.fits(bare) else build_text(spec).rewrite(bare, inner)
            if problem := _problem(bare, made, inner):
                raise Failed(problem)
        except (Failed, BadTranscript) as error:
            notes = (*notes, f"{spec} gave way: {error}")
            continue
        return made, spec, (*notes, *made.notes[len(bare.notes) :])
    return bare, "", notes


def _methods(first: str) -> Iterator[str]:
    yield first
    yield from (name for name in FALLBACKS if name in TEXT and name != first.partition(":")[0])


def _problem(held: Draft, made: Draft, room: Room) -> str:
    """What is wrong with a method's result; empty where it may be used. Raises BadTranscript for an illegal one."""
    check_legal(made.turns)
    free, kept = set(room.free(held)), set(map(id, made.pieces))
    fixed = [piece for at, piece in enumerate(held.pieces) if at not in free]
    if any(id(piece) not in kept and piece not in made.pieces for piece in fixed):
        return "it touched what must stay: system prompt, task or newest exchanges"
    if any(piece.made and not piece.turn.text.strip() and not piece.turn.calls for piece in made.pieces):
        return "it left a message empty"
    if made.size(room.count) > held.size(room.count):
        return "the result is larger than the session"
    return ""
