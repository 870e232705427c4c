"""Delete random exchanges until the rest fits: what any choice of what to keep has to beat (control)."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import ClassVar

from holdfast.methods.text.base import Room
from holdfast.methods.text.exchanges import choose_until_fit, drop_exchanges, droppable_exchanges
from holdfast.transcript.draft import Draft


@dataclass(frozen=True)
class RandomDelete:
    """Every exchange that may be touched is as likely to go as any other."""

    seed: int = 0
    """Of the order in which exchanges are deleted."""

    name: ClassVar[str] = "random_delete"

    def rewrite(self, held: Draft, room: Room) -> Draft:
        order = droppable_exchanges(held, room)
        random.Random(self.seed).shuffle(order)
        return drop_exchanges(held, choose_until_fit(held, room, order))
