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


@dataclass(frozen=True)
class Around:
    """What a history was read with, and no item of it says."""

    tools: tuple[Mapping[str, Any], ...] = ()
    instructions: str | None = None


class Memory:
    """For the event loop alone. What one key keeps does not exist for another."""

    def __init__(self, characters: int = CHARACTERS) -> None:
        self.characters = characters
        self._held: OrderedDict[tuple[str, str | bytes], tuple[Any, int]] = OrderedDict()
        self._size = 0

    def keep(self, key: str, name: str, before: Sequence[Turn], added: Sequence[Turn]) -> None:
        """Remember a history under a name; its head `before` is paid for by whoever kept it."""
        self._put((key, name), (*before, *added), sum(map(_size, added)))

    def find(self, key: str, name: str) -> tuple[Turn, ...] | None:
        """The history of that name, where it is still there."""
        turns: tuple[Turn, ...] | None
        turns, _ = self._held.get((key, name), (None, 0))
        return turns

    def note(self, key: str, turns: Iterable[Turn], around: Around) -> None:
        """Remember what a history was read with, and nothing of its text."""
        *_, last = _digests(turns)
        self._put((key, last), around, len(around.instructions or ""))

    def around(self, key: str, turns: Iterable[Turn]) -> Around:
        """What the longest head of a history that was noted was read with."""
        noted = [self._held[key, head][0] for head in _digests(turns) if (key, head) in self._held]
        return noted[-1] if noted else Around()

    def _put(self, place: tuple[str, str | bytes], value: object, size: int) -> None:
        size += ENTRY
        _, old = self._held.pop(place, (None, 0))
        self._held[place] = value, size
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
