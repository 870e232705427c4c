"""Histories that a client names instead of sending them: by the id of a response, or by a compaction.

Kept in memory for as long as there is room, the oldest forgotten first. The sessions themselves are the host's.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from holdfast.transcript.turn import Turn

CHARACTERS = 64 * 2**20
"""Of text that is kept, in all."""
ENTRY = 1000
"""What an entry and a turn cost beside their text, in characters."""

Tools = tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class Kept:
    """A history, and the tools with which its session was read."""

    turns: tuple[Turn, ...] = ()
    tools: Tools = ()


class Memory:
    """For the event loop alone. What one key keeps does not exist for another."""

    def __init__(self, characters: int = CHARACTERS) -> None:
        self.characters = characters
        self._held: OrderedDict[tuple[str, str | bytes], tuple[Kept, int]] = OrderedDict()
        self._size = 0

    def keep(self, key: str, name: str, before: Sequence[Turn], added: Sequence[Turn], tools: Tools) -> None:
        """Remember `before` and `added` under a name; `before` is already paid for by whoever kept it."""
        size = ENTRY + sum(_size(turn) for turn in added)
        self._put((key, name), Kept((*before, *added), tools), size)

    def find(self, key: str, name: str | bytes) -> Kept | None:
        """What was kept under a name, where it is still there."""
        held = self._held.get((key, name))
        return held[0] if held else None

    def note(self, key: str, turns: Iterable[Turn], tools: Tools) -> None:
        """Remember the tools of a history without its text."""
        *_, last = _digests(turns)
        self._put((key, last), Kept(tools=tools), ENTRY)

    def tools_of(self, key: str, turns: Iterable[Turn]) -> Tools:
        """The tools of the longest head of a history that was noted; none where nothing was."""
        noted = [held for digest in _digests(turns) if (held := self.find(key, digest))]
        return noted[-1].tools if noted else ()

    def _put(self, place: tuple[str, str | bytes], kept: Kept, size: int) -> None:
        _, old = self._held.pop(place, (None, 0))
        self._held[place] = kept, size
        self._size += size - old
        while self._size > self.characters and len(self._held) > 1:
            _, (_, freed) = self._held.popitem(last=False)
            self._size -= freed


def _size(turn: Turn) -> int:
    return ENTRY + len(turn.text) + len(turn.reasoning) + sum(len(call.arguments) for call in turn.calls)


def _digests(turns: Iterable[Turn]) -> Iterator[bytes]:
    """One for each head of a history: of what was said in it, which a client may send with other fields around it."""
    digest = hashlib.sha256()
    for turn in turns:
        said = (turn.role.value, turn.text.strip(), turn.call_id, *(call.id for call in turn.calls))
        digest.update("\0".join((*said, "\n")).encode(errors="replace"))
        yield digest.digest()
