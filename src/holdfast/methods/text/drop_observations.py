"""Drop every observation: the second of two naive baselines.

The call stays, and the result becomes a stub, so that the session stays legal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from holdfast.methods.text.base import Room
from holdfast.methods.text.drop_long_observations import STUB
from holdfast.methods.text.observations import shorten_observations
from holdfast.transcript.draft import Draft


@dataclass(frozen=True)
class DropObservations:
    """Observations of any length become a stub, the oldest first."""

    name: ClassVar[str] = "drop_observations"

    def rewrite(self, held: Draft, room: Room) -> Draft:
        return shorten_observations(held, room, self.name, lambda _: STUB)
