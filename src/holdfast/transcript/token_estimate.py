"""Estimates the tokens of a text without a model's tokenizer: no download, and the same everywhere.

Byte-pair vocabularies hold most short words whole and cut the rest into pieces of about four characters, digits into
runs of three, and punctuation into short runs. `estimate_tokens` adds that up; benchmarks/token_estimate.py measures
how far it is from real ones.
"""

from __future__ import annotations

import re
from functools import lru_cache

_RUN = re.compile(r" ?[^\W\d_]+|\d{1,3}|\n+|[^\S\n]+|_|[^\w\s]{1,3}")
_WORD = 7  # characters of a word that is usually one token
_PIECE = 4
_LONG_WORD = re.compile(rf"[^\W\d_]{{{_WORD + 1},}}")
_ANY_WORD = re.compile(r"[^\W\d_]+")


@lru_cache(maxsize=1 << 14)
def estimate_tokens(text: str) -> int:
    """Estimates the tokens that a byte-pair tokenizer of a current model makes of `text`."""
    longer = _LONG_WORD if text.isascii() else _ANY_WORD  # other scripts take more tokens in words of any length
    return len(_RUN.findall(text)) + sum(map(_extra_tokens, longer.findall(text)))


def _extra_tokens(word: str) -> int:
    """Returns the tokens of a word beyond its first."""
    if not word[-1].isalpha():  # a superscript or the like
        return 0
    if not word.isascii():
        return max(1, round(len(word.encode()) / _PIECE)) - 1
    return -(-len(word) // _PIECE) - 2 if len(word) > _WORD else 0
