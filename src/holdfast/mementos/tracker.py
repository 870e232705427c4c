"""Finds blocks and mementos in tokens as they come: open, closed, noted. Knows texts and places, no model.

Delimiters that are one token each are found by id, so that the same characters in other tokens are text. Others are
found in the characters, however they are cut into tokens; a token that is partly delimiter is delimiter.

A block inside a block is part of the outer one. A memento without a block is text, and so is any delimiter inside a
memento but its end. A block that is never closed, or has no memento when the next one opens, stays.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, NamedTuple

from holdfast.engine.detokenizer import Detokenizer
from holdfast.mementos.delimiters import Delimiters

OPENS, CLOSES, NOTES, ENDS = range(4)
"""The delimiters, in their order."""


class Phase(Enum):
    """The place at which the newest token stands."""

    OUTSIDE = auto()
    BLOCK = auto()
    NOTED_NEXT = auto()
    """Behind a block, before its memento."""
    MEMENTO = auto()


@dataclass(frozen=True)
class BlockSpan:
    """A block with its memento, in tokens [start, stop): the block's content, and the memento with its delimiters."""

    block: tuple[int, int]
    memento: tuple[int, int]


class _Place(NamedTuple):
    """A delimiter: tokens [first, last] touch it; `before` is the end of the tokens that lie wholly before it."""

    first: int
    last: int
    whole: tuple[int, int]
    """The tokens that are nothing else."""


class BlockTracker:
    """Reads tokens one by one."""

    def __init__(self, tokenizer: Any, delimiters: Delimiters, mask_delimiters: bool = False) -> None:
        self.delimiters, self._masks = delimiters, mask_delimiters
        self._ids = delimiter_ids(tokenizer, delimiters)
        single = all(len(ids) == 1 for ids in self._ids)
        self._single = {ids[0]: mark for mark, ids in enumerate(self._ids)} if single else {}
        self._detokenizer = Detokenizer(tokenizer)
        self._recent, self._begin = "", 0
        self._ends: list[int] = []
        self.phase, self.count = Phase.OUTSIDE, 0
        self.done: list[BlockSpan] = []
        """Blocks with their mementos, in order."""
        self._depth = 0
        self._open = self._content = self._note = (0, 0)

    @property
    def length(self) -> int:
        """Tokens of the block or memento that is open now; 0 if none is."""
        start = self._open[0] if self.phase is Phase.BLOCK else self._note[1]
        return self.count - start if self.phase in (Phase.BLOCK, Phase.MEMENTO) else 0

    def closing(self) -> list[int]:
        """Returns the token ids that close what is open: every block inside a block too."""
        if self.phase is Phase.BLOCK:
            return self._ids[CLOSES] * self._depth
        return list(self._ids[ENDS]) if self.phase is Phase.MEMENTO else []

    def feed(self, token: int) -> bool:
        """Takes the next token; returns True if it completed a memento or opened a block: something may go now."""
        done, phase = len(self.done), self.phase
        self.count += 1
        if self._single:
            mark = self._single.get(token)
            if mark is not None:
                at = self.count - 1
                self._handle(mark, _Place(at, at, (at, at + 1)))
        else:
            self._read(self._detokenizer.feed(token))
        return len(self.done) > done or (phase is not self.phase and self.phase is Phase.BLOCK)

    def _read(self, text: str) -> None:
        self._recent += text
        self._ends.append(self._begin + len(self._recent))
        while found := self._find():
            at, mark = found
            start, stop = self._begin + at, self._begin + at + len(self.delimiters.texts[mark])
            self._handle(mark, self._place(start, stop))
            self._recent, self._begin = self._recent[stop - self._begin :], stop
        most = max(map(len, self.delimiters.texts)) - 1
        cut = max(0, len(self._recent) - most)
        self._recent, self._begin = self._recent[cut:], self._begin + cut

    def _find(self) -> tuple[int, int] | None:
        hits = [(at, mark) for mark, one in enumerate(self.delimiters.texts) if (at := self._recent.find(one)) >= 0]
        return min(hits, default=None)

    def _place(self, start: int, stop: int) -> _Place:
        first, last = bisect_right(self._ends, start), bisect_left(self._ends, stop)
        own_first = first if (self._ends[first - 1] if first else 0) >= start else first + 1
        own_last = last if self._ends[last] <= stop else last - 1
        return _Place(first, last, (own_first, own_last + 1))

    def _handle(self, mark: int, at: _Place) -> None:
        if self.phase is Phase.MEMENTO:
            if mark == ENDS:
                self.done.append(BlockSpan(self._content, (self._note[0], at.last + 1)))
                self.phase = Phase.OUTSIDE
        elif self.phase is Phase.BLOCK:
            self._depth += (mark == OPENS) - (mark == CLOSES)
            if not self._depth:
                begin = self._open[1] if self._masks else self._open[0]
                self._content = begin, max(begin, at.whole[1] if self._masks else at.first)
                self.phase = Phase.NOTED_NEXT
        elif mark == OPENS:
            self.phase, self._depth, self._open = Phase.BLOCK, 1, (at.last + 1, at.whole[0])
        elif mark == NOTES and self.phase is Phase.NOTED_NEXT:
            self.phase, self._note = Phase.MEMENTO, (at.first, at.last + 1)


def delimiter_ids(tokenizer: Any, delimiters: Delimiters) -> list[list[int]]:
    """Returns the token ids of each delimiter, as a model would write them."""
    return [list(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in delimiters.texts]


def find_spans(ids: Sequence[int], tokenizer: Any, delimiters: Delimiters, mask_delimiters: bool) -> list[BlockSpan]:
    """Returns the blocks with mementos in a whole turn's tokens."""
    tracker = BlockTracker(tokenizer, delimiters, mask_delimiters)
    for token in ids:
        tracker.feed(token)
    return tracker.done
