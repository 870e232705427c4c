"""Rewrites a session as text: a method shortens it, the gate puts back or lists what the result no longer holds.

For models behind an API, where only text can be changed. Loads no model library.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from functools import partial

from holdfast.engine.chat import Chat, ChatAnswer, MeteredChat
from holdfast.errors import BadOption
from holdfast.facts.session_facts import SessionFacts, collect_facts
from holdfast.gate.text.gate import SHARE, TextReport, check_draft
from holdfast.methods.registry import build_text
from holdfast.methods.text.base import Room
from holdfast.progress import Progress
from holdfast.text.fallback import change_behind, run_methods
from holdfast.text.split_messages import split_messages
from holdfast.transcript.activity import find_activity
from holdfast.transcript.cuts import check_legal
from holdfast.transcript.draft import Draft, new_draft, turn_size
from holdfast.transcript.token_estimate import estimate_tokens
from holdfast.transcript.turn import Transcript


@dataclass(frozen=True)
class TextPlan:
    """A plan of a text compaction: the method, the size of the result, and the gate."""

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
    least_recent: int | None = None
    """Newest exchanges that stay verbatim where the budget has no room for `keep_recent` of them; the result is then
    over the budget rather than without facts. None: `keep_recent`, whatever the budget is.
    """
    lookup: str = ""
    """Words that say how a turn that went is read in full; the facts section then ends with what went, and with them.
    """

    def __post_init__(self) -> None:
        if (self.budget is None) == (self.ratio is None):
            raise BadOption("give either a budget in tokens or a ratio")
        if self.budget is not None and self.budget < 1:
            raise BadOption(f"the budget must be at least 1 token, got {self.budget}")
        if self.ratio is not None and not (math.isfinite(self.ratio) and self.ratio >= 1):
            raise BadOption(f"the ratio must be at least 1, got {self.ratio}")
        if self.keep_recent < 0:
            raise BadOption(f"keep_recent must be at least 0, got {self.keep_recent}")
        if self.least_recent is not None and self.least_recent < 0:
            raise BadOption(f"least_recent must be at least 0, got {self.least_recent}")
        if not 0 <= self.allow_over <= 1:
            raise BadOption(f"allow_over must be between 0 and 1 of the budget, got {self.allow_over}")
        if not self.gate and (self.strict or self.allow_over or self.lookup):
            raise BadOption("strict, allow_over and lookup are of the gate; leave the gate on")


@dataclass(frozen=True)
class Rewritten:
    """A compaction and what it took."""

    draft: Draft
    tokens_before: int
    tokens: int
    budget: int
    seconds: float
    report: TextReport | None = None
    """The gate's report; None if the gate was off or the session fitted."""
    method: str = ""
    """The method whose result this is; empty where nothing was rewritten."""
    notes: tuple[str, ...] = ()
    """Messages of the methods, and the reason if another method than the planned one was used, or the budget was
    exceeded.
    """
    replies: tuple[ChatAnswer, ...] = ()
    """Answers of the summarising model, with its own tokens and seconds, those that could not be used included."""


STEPS = ("finding facts", "rewriting", "checking facts")


def rewrite(
    transcript: Transcript, plan: TextPlan, chat: Chat | None = None, progress: Progress | None = None
) -> Rewritten:
    """Rewrites a session by plan. `progress` is told of each of `STEPS`.

    Raises BadOption for an unknown method, BadTranscript for an illegal session, Lost if a strict gate found losses.
    """
    return rewrite_again(new_draft(transcript), plan, chat, progress=progress)


def rewrite_again(
    held: Draft,
    plan: TextPlan,
    chat: Chat | None = None,
    *,
    frozen: int = 0,
    known: SessionFacts | None = None,
    progress: Progress | None = None,
) -> Rewritten:
    """Rewrites a session that may have been rewritten before. If a method fails, a deterministic one takes its place.

    The first `frozen` pieces stay as they are. `known` is the ledger of the raw session, if the caller has it.
    """
    build_text(plan.method)
    check_legal(held.turns)
    began = time.perf_counter()
    before = held.size(estimate_tokens)
    budget = plan.budget if plan.budget is not None else max(1, int(before / (plan.ratio or 1)))
    metered = MeteredChat(chat) if chat else None
    room = Room(budget, estimate_tokens, plan.keep_recent, metered, frozen, lookup=plan.lookup)
    if room.fits(held):
        return Rewritten(held, before, before, budget, time.perf_counter() - began)
    report_step = partial(_report_step, progress)
    report_step(0)
    room = _make_room(held, room, plan)
    known = (known or collect_facts(held.raw)) if plan.gate else None
    room = replace(room, activity=known.activity if known else find_activity(held.raw.turns))
    report_step(1)
    made, method, notes = run_methods(change_behind(held, frozen, split_messages), plan.method, room, known)
    report_step(2)
    report = None
    if known is not None:
        made, report = check_draft(made, known, room, allow_over=plan.allow_over)
    tokens = made.size(estimate_tokens)
    if tokens >= before:
        made, tokens, method = held, before, ""
        notes = (*notes, "nothing was gained, so the session stays as it was")
        report = TextReport() if known is not None else None
    if tokens > budget:
        notes = (*notes, _explain_excess(tokens - budget, report, plan.allow_over))
        report = replace(report, over=tokens - budget) if report else None
    if plan.strict and report:
        report.refuse()
    replies = tuple(metered.replies) if metered else ()
    seconds = time.perf_counter() - began
    return Rewritten(made, before, tokens, budget, seconds, report, method, notes, replies)


def _make_room(held: Draft, room: Room, plan: TextPlan) -> Room:
    """Returns the limits by which a plan that may give way is carried out: fewer exchanges stay verbatim, and at last
    the budget grows, until a share of it is left for facts and a share for lines in place of what goes.
    """
    if plan.least_recent is None:
        return room
    needed = int(2 * SHARE * room.budget)
    for recent in range(plan.keep_recent, min(plan.least_recent, plan.keep_recent) - 1, -1):
        room = replace(room, keep_recent=recent)
        free = set(room.free(held))
        fixed = sum(turn_size(piece.turn, room.count) for at, piece in enumerate(held.pieces) if at not in free)
        if fixed + needed <= room.budget:
            return room
    return replace(room, budget=max(room.budget, fixed + needed))


def _report_step(progress: Progress | None, done: int) -> None:
    if progress is not None:
        progress("step", done, len(STEPS), STEPS[done])


def _explain_excess(tokens: int, report: TextReport | None, allowed: float) -> str:
    """Explains the reason why a result is `tokens` over its budget."""
    if report and report.standing and tokens <= report.section:
        what = "rules of the user" if report.standing == report.rules else "rules and live handles"
        return (
            f"{tokens:,} tokens over the budget: {report.standing} {what} come back whatever it is, and take "
            f"{report.section:,} tokens"
        )
    if allowed and report and tokens <= report.section:
        return f"{tokens:,} tokens over the budget for facts that were put back; {allowed:.0%} of it was allowed"
    return f"{tokens:,} tokens over the budget: the rest may not be dropped"
