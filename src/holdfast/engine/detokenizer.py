"""Token ids to text as they are generated: never half a character, and in time linear in their number."""

from __future__ import annotations

from typing import Any

HALF = "\ufffd"  # what a tokenizer decodes bytes to that are no whole character yet, or never will be
WINDOW = 16  # tokens that are decoded together
OVERLAP = 4  # of them, those that stay for the next window: a character has at most four bytes


class Detokenizer:
    """The text of a growing list of tokens, piece by piece.

    The pieces joined are what the tokenizer decodes the whole list to, and each call decodes a few tokens only. Where a
    tokenizer decodes a run of bytes as a whole (byte fallback), a run of broken ones longer than `WINDOW` is settled as
    it stands.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._settled = 0  # characters of the text of these ids that were returned

    def feed(self, token: int) -> str:
        """Returns the text that is settled by one more token."""
        self._ids.append(token)
        text = self._decode()
        full = len(self._ids) > WINDOW
        end = _find_settled_end(text, full)
        new = text[self._settled : end]
        self._settled = max(self._settled, end)
        if full:
            self._ids = self._ids[-OVERLAP:]
            self._settled = _find_settled_end(self._decode(), full)
        return new

    def end(self) -> str:
        """Returns the rest, half a character or not."""
        return self._decode()[self._settled :]

    def _decode(self) -> str:
        return str(self._tokenizer.decode(self._ids))


def _find_settled_end(text: str, full: bool) -> int:
    """Returns how many characters later tokens cannot change. In a full window that is all but the last half one."""
    return len(text.removesuffix(HALF)) if full else len(text.rstrip(HALF))
