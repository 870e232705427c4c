"""Messages of an earlier compaction that a file format joined to the user's own, told apart again.

Where roles must alternate, a writer puts the notes and the facts section into the user message beside them. Read back,
they would pass for the user's words, stay for ever, and pile up.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from holdfast.gate.section import HEADER
from holdfast.gate.section import MADE as SECTION
from holdfast.methods.text.sections import MADE as NOTES
from holdfast.methods.text.sections import TITLE
from holdfast.transcript.draft import Draft, Line, Piece
from holdfast.transcript.turn import Role

MADE = "unfold"
_ITEMS = r"(?:\n(?:- |## )[^\n]*)*"
_STANDING = re.compile(rf"^(?:(?P<notes>{TITLE}[^\n]*{_ITEMS})|{re.escape(HEADER)}{_ITEMS})$", re.MULTILINE)


def unfolded(held: Draft) -> Draft:
    """The draft with every standing message as a piece of its own, after what the user said beside it."""
    pieces = tuple(part for piece in held.pieces for part in _parts(piece))
    return replace(held, pieces=pieces) if len(pieces) != len(held.pieces) else held


def _parts(piece: Piece) -> Iterator[Piece]:
    turn = piece.turn
    found = list(_STANDING.finditer(turn.text)) if turn.role is Role.USER and not piece.made else []
    said = _STANDING.sub("", turn.text).strip()
    if not found or not said:
        yield piece
        return
    yield replace(piece, turn=replace(turn, text=said), made=MADE)
    for match in found:
        lines = tuple(Line(text, piece.turns) for text in match[0].split("\n"))
        made = replace(piece.turn, text=match[0], source=0, extra={})
        yield Piece(made, piece.turns, NOTES if match["notes"] else SECTION, lines)
