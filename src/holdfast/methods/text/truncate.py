"""Drop the oldest exchanges until the rest fits: what agents do that do nothing else (baseline)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from holdfast.methods.text.base import Room
from holdfast.methods.text.exchanges import droppable, until_it_fits, without
from holdfast.transcript.draft import Draft


@dataclass(frozen=True)
class Truncate:
    """The oldest exchanges go first; system prompt, task and newest exchanges stay."""

    name: ClassVar[str] = "truncate"

    def rewrite(self, held: Draft, room: Room) -> Draft:
        return without(held, until_it_fits(held, room, droppable(held, room)))
