"""Drop the oldest exchanges until the rest fits: what agents do that do nothing else (baseline)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from holdfast.methods.text.base import Room
from holdfast.methods.text.exchanges import choose_until_fit, drop_exchanges, droppable_exchanges
from holdfast.transcript.draft import Draft


@dataclass(frozen=True)
class Truncate:
    """The oldest exchanges go first; system prompt, task and newest exchanges stay."""

    name: ClassVar[str] = "truncate"

    def rewrite(self, held: Draft, room: Room) -> Draft:
        return drop_exchanges(held, choose_until_fit(held, room, droppable_exchanges(held, room)))
