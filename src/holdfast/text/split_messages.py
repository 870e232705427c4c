"""Splits messages that a file format joined: what the user said, and messages of an earlier compaction beside it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from holdfast.facts.notes import NOTES_WRITER as NOTES
from holdfast.facts.section import SECTION_WRITER as SECTION
from holdfast.transcript.draft import Draft, Line, Piece
from holdfast.transcript.speaker import is_made, split_voices
from holdfast.transcript.turn import Role

MADE = "unfold"


def split_messages(held: Draft) -> Draft:
    """Returns the draft with every message of ours as a piece of its own, behind the user's words beside it."""
    pieces = tuple(part for piece in held.pieces for part in _parts(piece))
    return replace(held, pieces=pieces) if len(pieces) != len(held.pieces) else held


def _parts(piece: Piece) -> Iterator[Piece]:
    turn = piece.turn
    found = () if piece.writer else split_voices(turn)
    said, standing = turn.text, [voice for voice in found if is_made(voice)]
    if len(found) < 2 or not standing:
        yield piece
        return
    for voice in reversed(standing):
        said = said[: voice.start] + said[voice.start + len(voice.text) :]
    if said.strip():
        yield replace(piece, turn=replace(turn, text=said.strip()), writer=MADE)
    for voice in standing:
        lines = tuple(Line(text, piece.turns) for text in voice.text.split("\n"))
        made = NOTES if voice.speaker is Role.ASSISTANT else SECTION
        yield Piece(replace(turn, text=voice.text, source=0, extra={}), piece.turns, made, lines)
