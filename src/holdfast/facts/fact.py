"""The values of this folder: the kinds of facts, a fact in one text, and a fact of a session with its occurrences."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import NamedTuple

from holdfast.transcript.turn import Role


class FactKind(StrEnum):
    """The kinds of facts. The log and the facts section name them by these values."""

    URL = "url"
    """Also hosts with or without a port, and mail addresses."""
    PATH = "path"
    HASH = "hash"
    VERSION = "version"
    IDENTIFIER = "identifier"
    NUMBER = "number"
    """Also dates, times, and bracketed tuples of numbers; with its unit."""
    QUOTED = "quoted"
    ERROR = "error"
    COMMAND = "command"
    INSTRUCTION = "instruction"
    PROHIBITION = "prohibition"
    PROJECT_RULE = "project_rule"
    """What a rule file of the project asks or forbids (`AGENTS.md`, `CLAUDE.md`); named by that file."""
    HANDLE = "handle"
    """Something that runs or stands open: a background shell, a sub-agent, a port, a file in an editor, a todo list."""
    TASK = "task"
    """A sentence of the task that is no rule; only of a task that was shortened."""


class Span(NamedTuple):
    """The characters `start` to `end` (exclusive) of a text, and the kind of fact that they are."""

    start: int
    end: int
    kind: FactKind


@dataclass(frozen=True)
class TextFact:
    """A fact at one place of one text."""

    kind: FactKind
    text: str
    """The exact characters at that place, with any escapes in them."""
    chars: tuple[int, int]
    """Character span in the text that was searched."""
    source: str = ""
    """The file of a project rule."""

    def shift(self, by: int) -> TextFact:
        """Returns the same fact for a text that has `by` characters more before it."""
        return replace(self, chars=(self.chars[0] + by, self.chars[1] + by)) if by else self


@dataclass(frozen=True)
class Occurrence:
    """A place of a session where a fact stands."""

    turn: int
    """0-based."""
    part: int
    """0 is the turn's text, n the arguments of its n-th call."""
    fact: TextFact
    """The fact in that part; its characters count from the beginning of the part."""
    speaker: Role
    superseded_by: int | None = None
    """The turn after which this occurrence is history; None while it is live."""


@dataclass(frozen=True)
class Fact:
    """A fact of a session, with all its occurrences."""

    kind: FactKind
    text: str
    """The text for a reader: in arguments, without the escapes of JSON."""
    occurrences: tuple[Occurrence, ...]
    """In the order of the session; at least one."""

    @property
    def live(self) -> tuple[Occurrence, ...]:
        return tuple(place for place in self.occurrences if place.superseded_by is None)

    @property
    def superseded_by(self) -> int | None:
        """The turn that made the last of its occurrences history; None while one is live."""
        if self.live:
            return None
        return max(place.superseded_by for place in self.occurrences if place.superseded_by is not None)

    @property
    def citation(self) -> Occurrence:
        """The occurrence to cite: a live one if there is any, the user's first, then the newest."""
        return max(self.live or self.occurrences, key=lambda place: (place.speaker is Role.USER, place.turn))

    @property
    def source(self) -> str:
        """The file of a project rule; empty for any other fact."""
        return self.citation.fact.source

    @property
    def turn(self) -> int:
        return self.citation.turn

    @property
    def chars(self) -> tuple[int, int]:
        return self.citation.fact.chars

    @property
    def speaker(self) -> Role:
        return self.citation.speaker
