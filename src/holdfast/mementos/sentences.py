"""Splits a text into sentences that may be told apart: code and maths stay whole, fragments join their neighbours.

The sentences joined are the text, character by character.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

SHORT = 5
"""Words: a sentence of fewer joins the one before it."""
_WHOLE = re.compile(
    r"```.*?(?:```|\Z)"  # fenced code
    r"|\$\$.*?\$\$|\\\[.*?\\\]|\\\(.*?\\\)|\\begin\{(\w+\*?)\}.*?\\end\{\1\}|(?<![\w$])\$[^$\n]{1,300}\$(?!\w)"
    r"|(?:(?<=\n)|\A)(?: {4,}|\t)[^\n]*(?:\n(?: {4,}|\t)[^\n]*)*",  # indented code
    re.DOTALL,
)
_END = re.compile(r"(?<=[.!?。！？])[\"')\]]*\s+(?=[\"'(\[]?[^\W_a-z])|\n{2,}|\n(?=\s*(?:[-*+]|\d{1,3}[.)])\s)|\n")
_ABBREVIATION = re.compile(r"(?:\b(?:e\.g|i\.e|etc|cf|vs|Dr|Mr|Mrs|Ms|Prof|Fig|Eq|No|approx|resp)|\b[A-Z])\.\Z")
_LEADS_ON = re.compile(r"[:=,(\[{+*/<>&|\\-]\s*\Z")
_GOES_ON = re.compile(
    r"\s*(?:[=<>≤≥≈⇒→+*/)\]}]|(?:so|and|but|or|then|thus|hence|therefore|because|which|where|since)\b)", re.IGNORECASE
)
_WORD = re.compile(r"\S+")


def split_sentences(text: str) -> list[str]:
    """Returns the sentences of a text, each with the white space behind it; joined they are the text."""
    sentences: list[str] = []
    for piece in _pieces(text):
        if sentences and _belongs(sentences[-1], piece):
            sentences[-1] += piece
        else:
            sentences.append(piece)
    return sentences


def _pieces(text: str) -> Iterator[str]:
    """Yields the text cut at the ends of sentences, where no code and no maths is cut."""
    whole = [match.span() for match in _WHOLE.finditer(text)]
    at, inside = 0, iter([*whole, (len(text) + 1, len(text) + 1)])
    start, stop = next(inside)
    for match in _END.finditer(text):
        while stop < match.end():
            start, stop = next(inside)
        if (start < match.start() and match.end() < stop) or match.end() <= at:
            continue
        yield text[at : match.end()]
        at = match.end()
    if at < len(text):
        yield text[at:]


def _belongs(before: str, piece: str) -> bool:
    """Returns True for a piece that is no sentence without the one before it."""
    said = before.rstrip()
    if not piece.strip() or not said:
        return True
    joined = _LEADS_ON.search(said) or _ABBREVIATION.search(said) or _open_brackets(said) or _GOES_ON.match(piece)
    return bool(joined) or len(_WORD.findall(piece)) < SHORT or len(_WORD.findall(said)) < SHORT


def _open_brackets(text: str) -> bool:
    """Returns True if a bracket of the last line is open."""
    line = text.rpartition("\n")[2]
    return any(line.count(opens) > line.count(closes) for opens, closes in ("()", "[]", "{}"))
