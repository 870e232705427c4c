"""Drop the long observations: the first of two naive baselines.

The call stays, and the result becomes a stub, so that the session stays legal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from holdfast.errors import BadOption
from holdfast.methods.text.base import Room
from holdfast.methods.text.observations import shorten_observations
from holdfast.transcript.draft import Draft

STUB = "[dropped]"


@dataclass(frozen=True)
class DropLongObservations:
    """Long observations become a stub."""

    over: int = 256
    """Tokens of the longest observation that stays."""

    name: ClassVar[str] = "drop_long_observations"

    def __post_init__(self) -> None:
        if self.over < 0:
            raise BadOption(f"drop_long_observations: over must be at least 0 tokens, got {self.over}")

    def rewrite(self, held: Draft, room: Room) -> Draft:
        return shorten_observations(
            held, room, self.name, lambda piece: STUB if room.count(piece.turn.text) > self.over else None
        )
