"""Histories that a client names instead of sending them: by the id of a response, or by a compaction.

Kept in memory for as long as there is room, the oldest forgotten first. The sessions themselves are the host's.
"""

from __future__ import annotations

import hashlib
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any

from holdfast.transcript.turn import Turn

CHARACTERS = 64 * 2**20
"""Of text that is kept, in all."""
ENTRY = 1000
"""What an entry and a turn cost beside their text, in characters."""


@dataclass(frozen=True)
class Preamble:
    """The tools and instructions that a history was read with, which no item of it says."""

    tools: tuple[Mapping[str, Any], ...] = ()
    instructions: str | None = None


class ResponseStore:
    """Histories by name. Any thread may call. A history of one key does not exist for another."""

    def __init__(self, characters: int = CHARACTERS) -> None:
        self.characters = characters
        self._entries: OrderedDict[tuple[str, str | bytes], tuple[Any, int]] = OrderedDict()
        self._sizes: Counter[str] = Counter()  # of each key
        self._lock = Lock()

    def keep(self, key: str, name: str, before: Sequence[Turn], added: Sequence[Turn]) -> None:
        """Stores a history under a name; its head `before` is paid for by whoever stored that."""
        self._put(key, name, (*before, *added), sum(map(_size, added)))

    def find(self, key: str, name: str) -> tuple[Turn, ...] | None:
        """Returns the history of that name, or None if it is not there any more."""
        turns: tuple[Turn, ...] | None
        turns, _ = self._entries.get((key, name), (None, 0))
        return turns

    def keep_body(self, key: str, name: str, body: Mapping[str, Any], items: Sequence[Mapping[str, Any]]) -> None:
        """Stores a whole response and the items that it answers, for whoever asks for it by its id."""
        size = sum(len(str(item)) for item in (*items, *body.get("output", ())))
        self._put(key, _body_name(name), (body, tuple(items)), size)

    def find_body(self, key: str, name: str) -> tuple[Mapping[str, Any], tuple[Mapping[str, Any], ...]] | None:
        """Returns a response and its items, or None if it is not there any more."""
        kept: tuple[Mapping[str, Any], tuple[Mapping[str, Any], ...]] | None
        kept, _ = self._entries.get((key, _body_name(name)), (None, 0))
        return kept

    def forget(self, key: str, name: str) -> None:
        """Drops a response and its history, if they are there."""
        with self._lock:
            for one in (name, _body_name(name)):
                _, size = self._entries.pop((key, one), (None, 0))
                self._sizes[key] -= size

    def note(self, key: str, turns: Iterable[Turn], preamble: Preamble) -> None:
        """Stores what a history was read with, and nothing of its text."""
        *_, last = _digests(turns)
        self._put(key, last, preamble, len(preamble.instructions or ""))

    def preamble(self, key: str, turns: Iterable[Turn]) -> Preamble:
        """Returns what the longest noted head of a history was read with."""
        heads = [entry for head in _digests(turns) if (entry := self._entries.get((key, head)))]
        return heads[-1][0] if heads else Preamble()

    def _put(self, key: str, name: str | bytes, value: object, size: int) -> None:
        size += ENTRY
        with self._lock:
            _, old = self._entries.pop((key, name), (None, 0))
            self._entries[key, name] = value, size
            self._sizes[key] += size - old
            while self._sizes.total() > self.characters and len(self._entries) > 1:
                self._evict()

    def _evict(self) -> None:
        """Removes the oldest entry of the key that takes most, so that one key does not push out the others."""
        largest, _ = self._sizes.most_common(1)[0]
        place = next(place for place in self._entries if place[0] == largest)
        _, size = self._entries.pop(place)
        self._sizes[largest] -= size
        if not self._sizes[largest]:
            del self._sizes[largest]


def _body_name(name: str) -> bytes:
    """Returns the name of a response's body, which no client can mistake for a history."""
    return b"body " + name.encode(errors="replace")


def _size(turn: Turn) -> int:
    return ENTRY + len(turn.text) + len(turn.reasoning) + sum(len(call.arguments) for call in turn.calls)


def _digests(turns: Iterable[Turn]) -> Iterator[bytes]:
    """Yields a digest of the words of each head of a history; other fields around them do not count."""
    digest = hashlib.sha256()
    for turn in turns:
        said = (turn.role.value, turn.text.strip(), turn.call_id, *(call.id for call in turn.calls))
        digest.update("\0".join((*said, "\n")).encode(errors="replace"))
        yield digest.digest()
