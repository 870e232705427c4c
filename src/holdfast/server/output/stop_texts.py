"""Texts that end an answer, found however the answer is cut into pieces."""

from __future__ import annotations

from collections.abc import Sequence

from holdfast.transcript.tool_parser.overlap import count_overlap


class StopTexts:
    """Ends a text before the first of some texts; a piece that may begin one of them is held back."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [stop for stop in stops if stop]
        self._pending = ""
        self.hit = ""
        """The text that ended it; empty until then."""

    def feed(self, text: str) -> str:
        """Returns the part that belongs to the answer for certain; nothing after a hit."""
        if self.hit:
            return ""
        self._pending += text
        hits = [(at, stop) for stop in self._stops if (at := self._pending.find(stop)) >= 0]
        if hits:
            end, self.hit = min(hits)
            answer, self._pending = self._pending[:end], ""
            return answer
        end = len(self._pending) - max((count_overlap(self._pending, stop) for stop in self._stops), default=0)
        answer, self._pending = self._pending[:end], self._pending[end:]
        return answer

    def end(self) -> str:
        """Returns the part that was held back."""
        rest, self._pending = self._pending, ""
        return rest
