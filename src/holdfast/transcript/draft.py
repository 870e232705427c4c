"""A draft: a session that is rewritten as text, its pieces in order, each with the raw turns that it stands for.

The raw transcript travels along unchanged, so that every line of the result can be traced, undone and expanded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from holdfast.transcript.cuts import exchanges
from holdfast.transcript.task import find_task, precedes_task
from holdfast.transcript.turn import Role, ToolCall, Transcript, Turn

Count = Callable[[str], int]
"""Tokens of a text."""

MESSAGE_TOKENS = 4
"""About the tokens that a chat template puts around a message."""


@dataclass(frozen=True)
class Line:
    """One line of a rewritten turn."""

    text: str
    turns: tuple[int, ...] = ()
    """0-based raw turns that the line was written from."""


@dataclass(frozen=True)
class Piece:
    """One turn of the result."""

    turn: Turn
    turns: tuple[int, ...]
    """0-based raw turns that the piece stands for: its own turn if it is verbatim."""
    writer: str = ""
    """The method that wrote the piece, e.g. `mask_observations`; empty if it stands as in the session."""
    lines: tuple[Line, ...] = ()
    """Of a rewritten turn's text, if lines have sources of their own; else every line has those of the piece."""

    @property
    def at(self) -> int | None:
        """The raw turn whose place the piece has; None if it is new."""
        return self.turns[0] if not self.lines and len(self.turns) == 1 else None


@dataclass(frozen=True)
class Draft:
    """The session as it would be sent now."""

    raw: Transcript
    pieces: tuple[Piece, ...]
    notes: tuple[str, ...] = ()
    """Messages of the methods for the evidence, e.g. what was cut and where."""

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
        covered = {at for piece in self.pieces for at in piece.turns}
        return tuple(at for at in range(len(self.raw.turns)) if at not in covered)

    def size(self, count: Count) -> int:
        """Returns the tokens of all pieces."""
        return sum(turn_size(piece.turn, count) for piece in self.pieces)

    def keep(self, indices: Iterable[int]) -> Draft:
        """Returns the draft with these pieces only, in their order."""
        chosen = set(indices)
        return replace(self, pieces=tuple(piece for at, piece in enumerate(self.pieces) if at in chosen))

    def replace_text(self, index: int, text: str, writer: str) -> Draft:
        """Returns the draft with another text in one piece."""
        old = self.pieces[index]
        new = replace(old, turn=replace(old.turn, text=text), writer=writer, lines=())
        return replace(self, pieces=(*self.pieces[:index], new, *self.pieces[index + 1 :]))

    def replace_calls(self, index: int, calls: tuple[ToolCall, ...], writer: str) -> Draft:
        """Returns the draft with other arguments in the calls of one piece."""
        old = self.pieces[index]
        new = replace(old, turn=replace(old.turn, calls=calls), writer=writer)
        return replace(self, pieces=(*self.pieces[:index], new, *self.pieces[index + 1 :]))

    def replace_pieces(self, start: int, stop: int, piece: Piece) -> Draft:
        """Returns the draft with one piece in place of `pieces[start:stop]`."""
        return replace(self, pieces=(*self.pieces[:start], piece, *self.pieces[stop:]))


def turn_ranges(turns: Iterable[int]) -> str:
    """Formats 0-based turns as 1-based ranges: `3-7, 9`."""
    parts: list[list[int]] = []
    for at in sorted(turns):
        if parts and parts[-1][1] == at:
            parts[-1][1] = at + 1
        else:
            parts.append([at + 1, at + 1])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in parts)


def new_draft(transcript: Transcript) -> Draft:
    """Returns the draft of a session before anything is rewritten."""
    return Draft(transcript, tuple(Piece(turn, (at,)) for at, turn in enumerate(transcript.turns)))


def piece_of_lines(lines: Iterable[Line], writer: str, role: Role = Role.USER) -> Piece:
    """Returns a new piece from lines; it stands for all of their turns."""
    lines = tuple(lines)
    turns = tuple(sorted({at for line in lines for at in line.turns}))
    return Piece(Turn(role, "\n".join(line.text for line in lines)), turns, writer, lines)


def turn_size(turn: Turn, count: Count) -> int:
    """Returns the tokens of one turn: its text, its reasoning, its calls, and what nobody can read."""
    parts = [turn.text, turn.reasoning, *(part for call in turn.calls for part in (call.name, call.arguments))]
    return MESSAGE_TOKENS + sum(count(part) for part in parts if part) + sum(part.tokens for part in turn.hidden)


def units(draft: Draft) -> tuple[tuple[int, int], ...]:
    """Returns the smallest runs of pieces, as [start, stop), that may be dropped or replaced without orphaning a
    result, and without an answer of the model left at the head.
    """
    spans = exchanges(draft.transcript)
    task = task_piece(draft) or 0
    joined: list[tuple[int, int]] = []
    for start, stop in spans:
        answers = draft.pieces[start].turn.role is not Role.USER and start < task
        if answers and joined and draft.pieces[joined[-1][0]].turn.role is Role.USER:
            joined[-1] = joined[-1][0], stop
        else:
            joined.append((start, stop))
    return tuple(joined)


def task_piece(draft: Draft) -> int | None:
    """Returns the index of the piece that holds the task (`find_task`); None if there is none."""
    return find_task(draft.turns)


def free_pieces(draft: Draft, keep_recent: int) -> tuple[int, ...]:
    """Returns the pieces that a method may touch: all but the system turns at the head, rules of the project and a
    summary before the task, the task, and the newest exchanges.
    """
    spans = units(draft)
    pieces = draft.pieces
    head = next((at for at, piece in enumerate(pieces) if piece.turn.role is not Role.SYSTEM), len(pieces))
    newest = spans[-keep_recent][0] if keep_recent and len(spans) >= keep_recent else len(pieces)
    if keep_recent > len(spans):
        newest = 0
    task = task_piece(draft)
    before = range(head, task or head)
    fixed = {task, *(at for at in before if precedes_task(pieces[at].turn))}
    return tuple(at for at in range(head, newest) if at not in fixed)
