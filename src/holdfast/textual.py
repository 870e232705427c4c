"""Text-level compaction: a method rewrites the session, the gate says what the result no longer holds.

For models behind an API, where only text can be changed. Loads no model library.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from holdfast.engine.chat import Chat, Metered, Reply
from holdfast.errors import BadOption
from holdfast.methods.registry import build_text
from holdfast.methods.text.base import Room
from holdfast.transcript.cuts import check_legal
from holdfast.transcript.draft import Draft, draft
from holdfast.transcript.size import count
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

    def __post_init__(self) -> None:
        if (self.budget is None) == (self.ratio is None):
            raise BadOption("give either a budget in tokens or a ratio")
        if self.budget is not None and self.budget < 1:
            raise BadOption(f"the budget must be at least 1 token, got {self.budget}")
        if self.ratio is not None and not (math.isfinite(self.ratio) and self.ratio >= 1):
            raise BadOption(f"the ratio must be at least 1, got {self.ratio}")
        if self.keep_recent < 0:
            raise BadOption(f"keep_recent must be at least 0, got {self.keep_recent}")


@dataclass(frozen=True)
class Rewritten:
    """A compaction and what it took."""

    draft: Draft
    tokens_before: int
    tokens: int
    budget: int
    seconds: float
    replies: tuple[Reply, ...] = ()
    """What the compactor was asked, with its own tokens and seconds; also where its answer was of no use."""


def rewrite(transcript: Transcript, plan: TextPlan, chat: Chat | None = None) -> Rewritten:
    """Rewrite a session by plan. Raises BadOption for an unknown method, BadTranscript for an illegal session."""
    method = build_text(plan.method)
    check_legal(transcript.turns)
    began = time.perf_counter()
    held = draft(transcript)
    before = held.size(count)
    budget = plan.budget if plan.budget is not None else max(1, int(before / (plan.ratio or 1)))
    metered = Metered(chat) if chat else None
    room = Room(budget, count, plan.keep_recent, metered)
    made = held if room.fits(held) else method.rewrite(held, room)
    check_legal(made.turns)
    replies = tuple(metered.replies) if metered else ()
    return Rewritten(made, before, made.size(count), budget, time.perf_counter() - began, replies)
