"""Keep the newest exchanges and nothing older: the sliding window that many agents and their students use (baseline).

Unlike `truncate`, which drops no more than it must, this keeps a fixed number of exchanges, or fewer where those do not
fit: after it, the next compaction is far away.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from holdfast.errors import BadOption
from holdfast.methods.text.base import Room
from holdfast.methods.text.exchanges import choose_until_fit, drop_exchanges, droppable_exchanges
from holdfast.transcript.draft import Draft, units


@dataclass(frozen=True)
class KeepRecent:
    """System prompt, task and the newest exchanges stay."""

    exchanges: int = 5
    """Newest exchanges that stay; more where the newest that may not be touched are more."""

    name: ClassVar[str] = "keep_recent"

    def __post_init__(self) -> None:
        if self.exchanges < 0:
            raise BadOption(f"keep_recent: exchanges must be at least 0, got {self.exchanges}")

    def rewrite(self, held: Draft, room: Room) -> Draft:
        if room.fits(held):
            return held
        spans, free = units(held), droppable_exchanges(held, room)
        newest = set(spans[max(0, len(spans) - self.exchanges) :])
        older = [span for span in free if span not in newest]
        return drop_exchanges(held, {*older, *choose_until_fit(held, room, free)})
