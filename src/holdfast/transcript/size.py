"""Tokens of a text without a model's tokenizer: an estimate that needs no download and is the same everywhere.

Byte-pair vocabularies hold most short words whole and cut the rest into pieces of about four characters, digits into
runs of three, and punctuation into short runs. `count` adds that up; docs/log.md says how far it is from real ones.
"""

from __future__ import annotations

import re
from functools import lru_cache

_RUN = re.compile(r" ?[^\W\d_]+|\d{1,3}|\n+|[^\S\n]+|_|[^\w\s]{1,3}")
_WORD = 7  # characters of a word that is usually one token
_PIECE = 4


@lru_cache(maxsize=1 << 14)
def count(text: str) -> int:
    """About as many tokens as a byte-pair tokenizer of a current model makes of `text`."""
    return sum(_tokens(run) for run in _RUN.findall(text))


def _tokens(run: str) -> int:
    letters = run.strip(" ") if run[-1].isalpha() else ""
    if not letters.isascii():
        return max(1, round(len(letters.encode()) / _PIECE))
    return 1 if len(letters) <= _WORD else -(-len(letters) // _PIECE) - 1
