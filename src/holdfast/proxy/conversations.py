"""The conversations that went through the proxy, for its page: counts of each, and no words unless they are asked for.

A conversation is known by its key, its wire and its first turn, which every request repeats.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import asdict, dataclass
from typing import Any

from holdfast.proxy.bill import Bill
from holdfast.proxy.caller import OutgoingRequest
from holdfast.proxy.headers import SHOWN
from holdfast.transcript.speaker import extract_own_words
from holdfast.transcript.task import find_task

MOST = 500
"""Conversations remembered at once; the one that was used longest ago goes first."""
TITLE = 120
"""Characters of a title."""


@dataclass
class Conversation:
    """The counts of one conversation."""

    id: str
    key: str
    """The first characters of the key's digest."""
    wire: str
    title: str
    """The begin of the task; empty unless the log has words too."""
    turns: int = 0
    tokens_before: int = 0
    """Tokens of the newest history as it came."""
    tokens_after: int = 0
    """Tokens of it as it was sent."""
    requests: int = 0
    compactions: int = 0
    money: float | None = None
    """USD for what was sent; None where the price of the model is not known."""
    money_passing: float | None = None
    """USD for the same requests as they came."""
    updated: float = 0.0
    """Seconds since the epoch."""


class Conversations:
    """Conversations by their first turn; for the event loop alone."""

    def __init__(self, with_text: bool) -> None:
        self._with_text = with_text
        self._known: dict[str, Conversation] = {}  # the one used last stands last

    def note(self, key: str, wire: str, outgoing: OutgoingRequest, bill: Bill | None = None) -> None:
        """Counts a request; `bill` is that of its session."""
        if not outgoing.turns:
            return
        first = outgoing.turns[0].text
        task = find_task(outgoing.turns) if self._with_text else None
        digest = hashlib.sha256(f"{key}\n{wire}\n{first}".encode(errors="replace")).hexdigest()[:SHOWN]
        title = "" if task is None else " ".join(extract_own_words(outgoing.turns[task])[: 4 * TITLE].split())[:TITLE]
        known = self._known.pop(digest, None) or Conversation(digest, key[:SHOWN], wire, title)
        known.turns, known.tokens_before, known.tokens_after = len(outgoing.turns), outgoing.before, outgoing.after
        known.requests += 1
        known.compactions += outgoing.compacted
        if bill is not None:
            known.money, known.money_passing = bill.spent, bill.passing
        known.updated = round(time.time(), 3)
        self._known[digest] = known
        if len(self._known) > MOST:
            del self._known[next(iter(self._known))]

    def rows(self) -> list[dict[str, Any]]:
        """Returns all conversations as JSON, the newest first."""
        return [asdict(known) for known in reversed(self._known.values())]
