"""Leaves the session as it is: the baseline that every saving is measured against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from holdfast.methods.text.base import Room
from holdfast.transcript.draft import Draft


@dataclass(frozen=True)
class Nothing:
    """The session as it is."""

    name: ClassVar[str] = "none"

    def rewrite(self, held: Draft, room: Room) -> Draft:
        return held
