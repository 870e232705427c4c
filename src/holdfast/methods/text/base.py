"""The contract of a text method: it rewrites a session, so that it takes fewer tokens and stays legal to send."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from holdfast.engine.chat import Chat
from holdfast.transcript.activity import Activity, find_activity
from holdfast.transcript.draft import Count, Draft, free_pieces
from holdfast.transcript.token_estimate import estimate_tokens


@dataclass(frozen=True)
class Room:
    """The limits of a rewrite, and its tools."""

    budget: int
    """Tokens of the whole session."""
    count: Count = estimate_tokens
    keep_recent: int = 3
    """Newest exchanges that stay as they are."""
    chat: Chat | None = None
    """The model that writes summaries; None where there is none."""
    frozen: int = 0
    """Pieces at the head that stay as they are, because a prompt cache holds them. Ends between two units."""
    activity: Activity | None = None
    """The activity of the raw session, which one rewrite finds once for all methods; None if nobody found it yet."""
    lookup: str = ""
    """Words that say how a turn that went is read in full; the facts section then ends with what went, and with them.
    """

    def fits(self, held: Draft) -> bool:
        return held.size(self.count) <= self.budget

    def free(self, held: Draft) -> tuple[int, ...]:
        """Returns the pieces that may be touched, the oldest first."""
        return tuple(at for at in free_pieces(held, self.keep_recent) if at >= self.frozen)

    def activity_of(self, held: Draft) -> Activity:
        """Returns the commands and file accesses of the raw session."""
        return self.activity or find_activity(held.raw.turns)


class TextMethod(Protocol):
    """Rewrites a session. Options are the fields of a frozen dataclass; its file holds nothing else.

    A draft that fits is returned as it is. What may not be touched (`Room.free`) never is, and no result loses its
    call. A method works from the oldest turn on and stops when the draft fits; one that cannot reach the budget
    returns the smallest draft that it can make.
    """

    @property
    def name(self) -> str: ...

    def rewrite(self, held: Draft, room: Room) -> Draft: ...
