"""A session that is being rewritten as text: pieces in order, each with the raw turns that it stands for.

The raw transcript travels along unchanged, so that every line of the result can be traced, undone and expanded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from holdfast.transcript.cuts import exchanges
from holdfast.transcript.turn import Role, ToolCall, Transcript, Turn

Count = Callable[[str], int]
"""Tokens of a text."""

MESSAGE_TOKENS = 4
"""What a chat template puts around a message, about."""


@dataclass(frozen=True)
class Line:
    """One line of a rewritten turn."""

    text: str
    turns: tuple[int, ...] = ()
    """0-based raw turns that it was made from."""


@dataclass(frozen=True)
class Piece:
    """One turn of the result."""

    turn: Turn
    turns: tuple[int, ...]
    """0-based raw turns that it stands for: its own where it is verbatim."""
    writer: str = ""
    """What rewrote it, e.g. `mask_observations`; empty where it stands as in the session."""
    lines: tuple[Line, ...] = ()
    """Of a rewritten turn's text, where lines have sources of their own; else every line has those of the piece."""

    @property
    def at(self) -> int | None:
        """The raw turn whose place it has; None where it is new."""
        return self.turns[0] if not self.lines and len(self.turns) == 1 else None


@dataclass(frozen=True)
class Draft:
    """The session as it would be sent now."""

    raw: Transcript
    pieces: tuple[Piece, ...]
    notes: tuple[str, ...] = ()
    """What the methods that made it have to say for the evidence, e.g. what was cut and where."""

    @property
    def turns(self) -> tuple[Turn, ...]:
        return tuple(piece.turn for piece in self.pieces)

    @property
    def transcript(self) -> Transcript:
        """The result as a session of its own."""
        return replace(self.raw, turns=self.turns)

    @property
    def dropped(self) -> tuple[int, ...]:
        """Raw turns that no piece stands for."""
        held = {at for piece in self.pieces for at in piece.turns}
        return tuple(at for at in range(len(self.raw.turns)) if at not in held)

    def size(self, count: Count) -> int:
        """Tokens."""
        return sum(turn_size(piece.turn, count) for piece in self.pieces)

    def keep(self, indices: Iterable[int]) -> Draft:
        """Only these pieces, in their order."""
        kept = set(indices)
        return replace(self, pieces=tuple(piece for at, piece in enumerate(self.pieces) if at in kept))

    def replace_text(self, index: int, text: str, writer: str) -> Draft:
        """The draft with another text in one piece."""
        old = self.pieces[index]
        new = replace(old, turn=replace(old.turn, text=text), writer=writer, lines=())
        return replace(self, pieces=(*self.pieces[:index], new, *self.pieces[index + 1 :]))

    def replace_calls(self, index: int, calls: tuple[ToolCall, ...], writer: str) -> Draft:
        """The draft with other arguments in the calls of one piece."""
        old = self.pieces[index]
        new = replace(old, turn=replace(old.turn, calls=calls), writer=writer)
        return replace(self, pieces=(*self.pieces[:index], new, *self.pieces[index + 1 :]))

    def replace_pieces(self, start: int, stop: int, piece: Piece) -> Draft:
        """The draft with one piece in place of `pieces[start:stop]`."""
        return replace(self, pieces=(*self.pieces[:start], piece, *self.pieces[stop:]))


def new_draft(transcript: Transcript) -> Draft:
    """A session before anything is rewritten."""
    return Draft(transcript, tuple(Piece(turn, (at,)) for at, turn in enumerate(transcript.turns)))


def piece_of_lines(lines: Iterable[Line], writer: str, role: Role = Role.USER) -> Piece:
    """A new piece from lines; it stands for all of their turns."""
    held = tuple(lines)
    turns = tuple(sorted({at for line in held for at in line.turns}))
    return Piece(Turn(role, "\n".join(line.text for line in held)), turns, writer, held)


def turn_size(turn: Turn, count: Count) -> int:
    """Tokens of one turn: its text, its reasoning and its calls."""
    parts = [turn.text, turn.reasoning, *(part for call in turn.calls for part in (call.name, call.arguments))]
    return MESSAGE_TOKENS + sum(count(part) for part in parts if part)


def units(held: Draft) -> tuple[tuple[int, int], ...]:
    """The smallest runs of pieces, as [start, stop), that may be dropped or folded without orphaning a result."""
    return exchanges(held.transcript)


def task_piece(held: Draft) -> int | None:
    """The first user turn: what the session is for."""
    return next((at for at, piece in enumerate(held.pieces) if piece.turn.role is Role.USER), None)


def free_pieces(held: Draft, keep_recent: int) -> tuple[int, ...]:
    """Pieces that a method may touch: all but the system turns at the head, the task, and the newest exchanges."""
    spans = units(held)
    head = next((at for at, piece in enumerate(held.pieces) if piece.turn.role is not Role.SYSTEM), len(held.pieces))
    newest = spans[-keep_recent][0] if keep_recent and len(spans) >= keep_recent else len(held.pieces)
    if keep_recent > len(spans):
        newest = 0
    task = task_piece(held)
    return tuple(at for at in range(head, newest) if at != task)
