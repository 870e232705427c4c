"""Drops reads of files that a later turn supersedes: the file was read again, or written after.

A later read supersedes an earlier one if it is of the whole file or asks for the same part. Output of a shell command
counts only if it is nothing but files' content. A file is known by its path as the calls write it: a relative and an
absolute path are two files.
"""

from __future__ import annotations

from dataclasses import dataclass
from posixpath import normpath
from typing import ClassVar

from holdfast.methods.text.base import Room
from holdfast.methods.text.observations import MARK, expand_hint, shorten_observations
from holdfast.transcript.activity import Activity, FileAccess
from holdfast.transcript.draft import Draft, Piece


@dataclass(frozen=True)
class DedupReads:
    """The oldest superseded reads go first; the newest state of every file stays."""

    name: ClassVar[str] = "dedup_reads"

    def rewrite(self, held: Draft, room: Room) -> Draft:
        if room.fits(held):
            return held
        stale = find_superseded_reads(room.activity_of(held))

        def stub(piece: Piece) -> str | None:
            at = piece.turns[0]
            return f"{MARK}superseded: {stale[at]}; back by: {expand_hint(at)}]" if at in stale else None

        return shorten_observations(held, room, self.name, stub)


@dataclass(frozen=True)
class _Newer:
    """The later read or write that supersedes a read."""

    path: str
    verb: str
    turn: int

    def __str__(self) -> str:
        return f"{self.path} was {self.verb} in turn {self.turn + 1}"


def find_superseded_reads(seen: Activity) -> dict[int, str]:
    """Returns the raw result turns of which nothing is current any more, each with what supersedes it."""
    written = {normpath(access.path): access.turn for access in seen.writes}
    read: dict[tuple[str, str], int] = {}
    results: dict[int, list[_Newer | None]] = {}
    for access in reversed(seen.reads):
        if access.result_turn is None or not access.alone:
            continue
        results.setdefault(access.result_turn, []).append(_find_newer(access, written, read))
        read.setdefault((normpath(access.path), access.part), access.turn)
    return {at: ", ".join(map(str, found)) for at, found in results.items() if all(found)}


def _find_newer(access: FileAccess, written: dict[str, int], read: dict[tuple[str, str], int]) -> _Newer | None:
    """Returns the last read or write of the file after `access`; `read` holds later reads only."""
    path = normpath(access.path)
    again = max(read.get((path, ""), -1), read.get((path, access.part), -1))
    wrote = written.get(path, -1)
    if wrote > max(again, access.turn):
        return _Newer(access.path, "written", wrote)
    return _Newer(access.path, "read again", again) if again >= 0 else None
