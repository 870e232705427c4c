"""Decodes token ids to text, with the characters of every token. Knows how tokenizers write bytes."""

from __future__ import annotations

import codecs
import re
from collections.abc import Sequence
from typing import Any, NamedTuple


class DecodedText(NamedTuple):
    """Text of some ids. A character whose bytes stand in several tokens belongs to all of them."""

    text: str
    starts: list[int]
    """First character that each token has a byte of; for a token without any, its place."""
    ends: list[int]
    """One past the last character that each token has a byte of."""


class TokenDecoder:
    """Decodes the ids of one tokenizer. Asks the tokenizer once per id."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._anchor = list(tokenizer("a", add_special_tokens=False)["input_ids"])
        self._before = len(self._decode_plain(self._anchor))
        self._pieces: dict[int, bytes] = {}

    def decode(self, ids: Sequence[int]) -> DecodedText:
        """Decodes `ids`; bytes that are no character (a cut within one) become U+FFFD."""
        utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        texts: list[str] = []
        starts: list[int] = []
        ends: list[int] = []
        at = 0
        for token in ids:
            starts.append(at)
            text = utf8.decode(self._piece(token))
            texts.append(text)
            at += len(text)
            ends.append(at + bool(utf8.getstate()[0]))
        texts.append(utf8.decode(b"", final=True))
        return DecodedText("".join(texts), starts, ends)

    def _piece(self, token: int) -> bytes:
        if token not in self._pieces:
            self._pieces[token] = self._bytes(token)
        return self._pieces[token]

    def _bytes(self, token: int) -> bytes:
        """Returns the text of one token after another one (decoders drop a space that comes first)."""
        text = self._decode_plain([*self._anchor, token])[self._before :]
        if "\ufffd" not in text:
            return text.encode("utf-8", "surrogatepass")
        name = str(self._tokenizer.convert_ids_to_tokens(token))  # part of a character: only its name has the bytes
        if byte := re.fullmatch(r"<0x([\dA-Fa-f]{2})>", name):
            return bytes([int(byte[1], 16)])
        if all(char in _BYTES for char in name):
            return bytes(_BYTES[char] for char in name)
        return text.encode("utf-8", "surrogatepass")

    def _decode_plain(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))


def _byte_names() -> dict[str, int]:
    """Returns GPT-2's names of bytes: printable ones stand for themselves, the others follow from U+0100 on."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + n): byte for n, byte in enumerate(others)}


_BYTES = _byte_names()
