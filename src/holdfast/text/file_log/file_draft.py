"""A session file and its past as one draft: the raw turns from the first on, and the file's turns as pieces over them.

Methods and the gate thus see all that was ever said, and every turn keeps its number for good.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

from holdfast.text.file_log.lineage import Lineage
from holdfast.text.file_log.log import Origin
from holdfast.transcript.draft import Draft, Line, Piece
from holdfast.transcript.turn import Turn


def draft_of_file(past: Lineage) -> Draft:
    """Returns the file's session as a draft over its raw turns."""
    now = past.now
    pieces = (_piece(turn, origin) for turn, origin in zip(now.transcript.turns, now.origins, strict=True))
    return Draft(replace(now.transcript, turns=past.raw), tuple(pieces))


def draft_for_writer(made: Draft, start: Draft, past: Lineage) -> Draft:
    """Returns the draft `made`, which was rewritten from `start`, as a draft of the file's own turns for the format's
    writer.
    """
    places = {id(piece): at for at, piece in enumerate(start.pieces)}
    stays = {id(piece) for piece in made.pieces}
    alike = defaultdict(list)
    for place, piece in enumerate(start.pieces):
        if id(piece) not in stays:
            alike[_key(piece)].append(place)
    pieces = []
    for piece in made.pieces:
        at = places.get(id(piece))
        if at is None and not piece.lines and alike[_key(piece)]:
            at = alike[_key(piece)].pop(0)
        if at is None:
            pieces.append(_new_piece(piece, start))
        else:
            pieces.append(Piece(piece.turn, (at,), "" if piece.turn == start.pieces[at].turn else piece.writer))
    return Draft(past.now.transcript, tuple(pieces), made.notes)


def _piece(turn: Turn, origin: Origin) -> Piece:
    texts = turn.text.split("\n") if origin.lines else ()
    lines = tuple(Line(text, turns) for text, turns in zip(texts, origin.lines, strict=False))
    return Piece(turn, origin.turns, origin.made, lines)


def _key(piece: Piece) -> object:
    return piece.turns, piece.turn.role, piece.turn.call_id


def _new_piece(piece: Piece, start: Draft) -> Piece:
    """Returns a piece that is in no turn of the file. Without lines it must not stand for just one turn."""
    sources = set(piece.turns)
    turns = tuple(at for at, old in enumerate(start.pieces) if old.turns and sources.issuperset(old.turns))
    return replace(piece, turns=turns if piece.lines or len(turns) > 1 else ())
