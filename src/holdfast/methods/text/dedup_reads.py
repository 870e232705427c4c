"""Drop reads of files that a later turn supersedes: the file was read again, or written after.

A later read supersedes an earlier one where it is of the whole file or asks for the same part. What a shell command
printed counts only where it is nothing but files' content. A file is known by its path as the calls write it:
a relative and an absolute path are two files.
"""

from __future__ import annotations

from dataclasses import dataclass
from posixpath import normpath
from typing import ClassVar

from holdfast.methods.text.base import Room
from holdfast.methods.text.observations import MARK, expand_hint, shortened
from holdfast.transcript.activity import FileAccess, Observed, observed
from holdfast.transcript.draft import Draft, Piece


@dataclass(frozen=True)
class DedupReads:
    """The oldest superseded reads go first; the newest state of every file stays."""

    name: ClassVar[str] = "dedup_reads"

    def rewrite(self, held: Draft, room: Room) -> Draft:
        if room.fits(held):
            return held
        stale = superseded(observed(held.raw.turns))

        def stub(piece: Piece) -> str | None:
            at = piece.turns[0]
            return f"{MARK}superseded: {stale[at]}; back by: {expand_hint(at)}]" if at in stale else None

        return shortened(held, room, self.name, stub)


@dataclass(frozen=True)
class _Newer:
    """What supersedes a read."""

    path: str
    verb: str
    turn: int

    def __str__(self) -> str:
        return f"{self.path} was {self.verb} in turn {self.turn + 1}"


def superseded(seen: Observed) -> dict[int, str]:
    """Raw result turns of which nothing is current any more, each with what supersedes it."""
    written = {normpath(access.path): access.turn for access in seen.writes}
    read: dict[tuple[str, str], int] = {}
    results: dict[int, list[_Newer | None]] = {}
    for access in reversed(seen.reads):
        if access.result_turn is None or not access.alone:
            continue
        results.setdefault(access.result_turn, []).append(_newer(access, written, read))
        read.setdefault((normpath(access.path), access.part), access.turn)
    return {at: ", ".join(map(str, found)) for at, found in results.items() if all(found)}


def _newer(access: FileAccess, written: dict[str, int], read: dict[tuple[str, str], int]) -> _Newer | None:
    """The last that happened to the file after `access`; `read` holds later reads alone."""
    path = normpath(access.path)
    again = max(read.get((path, ""), -1), read.get((path, access.part), -1))
    wrote = written.get(path, -1)
    if wrote > max(again, access.turn):
        return _Newer(access.path, "written", wrote)
    return _Newer(access.path, "read again", again) if again >= 0 else None
