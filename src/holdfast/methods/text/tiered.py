"""Applies text methods one after another until the session fits: what loses least comes first.

Superseded reads, then the middle of long observations, then observations behind a line that says what was there, then
observations altogether, then long arguments of calls, then whole exchanges. No model is asked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from holdfast.errors import BadOption
from holdfast.methods.registry import build_text
from holdfast.methods.text.base import Room, TextMethod
from holdfast.transcript.draft import Draft


@dataclass(frozen=True)
class Tiered:
    """Each step gets what the one before it could not make fit."""

    steps: str = "dedup_reads+clamp+mask_observations+drop_observations+mask_calls+truncate"
    """Text methods with their defaults, joined by `+`."""

    name: ClassVar[str] = "tiered"

    def __post_init__(self) -> None:
        if self.name in self.steps.split("+"):
            raise BadOption("tiered: steps cannot hold tiered itself")
        self._methods()  # an unknown step is an error now, not at the first compaction

    def rewrite(self, held: Draft, room: Room) -> Draft:
        for method in self._methods():
            if room.fits(held):
                break
            held = method.rewrite(held, room)
        return held

    def _methods(self) -> tuple[TextMethod, ...]:
        return tuple(build_text(name) for name in self.steps.split("+"))
