"""Clamps long observations: the head and the tail stay, and one line says what stood between them.

Lines of the middle that tell an error are kept: a failing build hides its reason there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from holdfast.errors import BadOption
from holdfast.methods.text.base import Room
from holdfast.methods.text.observations import MARK, expand_hint, shorten_observations
from holdfast.transcript.draft import Draft, Piece
from holdfast.transcript.outcomes import ERROR_LINE

_CHARACTERS = 4  # of a token, about: where a line is cut inside
_NEAR = 16  # characters of a token, at most: what need not be looked at
_ERROR = 300  # characters of an error line that is still a line


@dataclass(frozen=True)
class Clamp:
    """The oldest long observations are clamped first."""

    head: int = 128
    """Tokens of the beginning that stay, in whole lines where there are any."""
    tail: int = 128
    """Tokens of the end that stay; tests and builds tell their result there."""
    errors: int = 8
    """Most error lines of the middle that stay."""

    name: ClassVar[str] = "clamp"

    def __post_init__(self) -> None:
        for option in ("head", "tail", "errors"):
            if getattr(self, option) < 0:
                raise BadOption(f"clamp: {option} must be at least 0, got {getattr(self, option)}")

    def rewrite(self, held: Draft, room: Room) -> Draft:
        def clamp(piece: Piece) -> str | None:
            long = not piece.writer and room.count(piece.turn.text) > self.head + self.tail
            return self.clamp_text(piece.turn.text, room, piece.turns[0]) if long else None

        return shorten_observations(held, room, self.name, clamp)

    def clamp_text(self, text: str, room: Room, at: int) -> str:
        """Returns the text of raw turn `at` with one line in place of its middle."""
        head = _beginning(text, self.head, room)
        tail = _end(text[len(head) :], self.tail, room)
        middle = text[len(head) : len(text) - len(tail)]
        found = [match.group() for match in ERROR_LINE.finditer(middle)]
        errors = [line for line in found if len(line) <= _ERROR][: self.errors]
        kept = f"; {len(errors)} of {len(found)} error lines of it follow" if found else ""
        cut = f"{middle.count(chr(10)):,} lines, {room.count(middle):,} tokens cut{kept}; all of it: {expand_hint(at)}"
        between = "\n".join([f"{MARK}{cut}]", *errors])
        return "\n".join(part for part in (head.rstrip("\n"), between, tail.lstrip("\n")) if part)


def _beginning(text: str, tokens: int, room: Room) -> str:
    """Returns the first lines that take at most `tokens`, or about as many characters if the first line is longer."""
    stop = _fitting_length(text[: tokens * _NEAR].splitlines(keepends=True), tokens, room)
    return text[: stop or tokens * _CHARACTERS]


def _end(text: str, tokens: int, room: Room) -> str:
    """Returns the last lines that take at most `tokens`, or about as many characters if the last line is longer."""
    start = max(0, len(text) - tokens * _NEAR)
    length = _fitting_length(text[start:].splitlines(keepends=True)[::-1], tokens, room) or tokens * _CHARACTERS
    return text[max(0, len(text) - length) :]


def _fitting_length(lines: list[str], tokens: int, room: Room) -> int:
    """Returns the number of characters of the first of `lines` that together take at most `tokens`."""
    length = 0
    for line in lines:
        tokens -= room.count(line)
        if tokens < 0:
            break
        length += len(line)
    return length
