"""The words by which a text is found: parts of identifiers and paths, word stems, and the whole of what is joined."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache

_RUN = re.compile(r"[^\s\"'`()\[\]{}<>,;|!?*]+")
_PART = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\W\d_a-zA-Z]+")
_JOINTS = ".:=/\\-_@#$&+~^%"
_SCRIPTS_WITHOUT_BLANKS = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")
_ENDINGS = (
    "ization",
    "ations",
    "ation",
    "ings",
    "ing",
    "ions",
    "ion",
    "ies",
    "ied",
    "ers",
    "er",
    "ed",
    "es",
    "s",
    "e",
    "y",
)
_SHORTEST = 4  # letters that stay of a word without its ending
_IDLE_TEXT = """
a an the of in on at to for by with from into as is are was were be been being do does did done has have had
it its this that these those there then than and or not no but if so which what who whom whose when where why
how many much will would can could should shall may might must i you he she we they me my your our their his her
us them about after before during under over again also just only any some each all both own same such very
"""
_IDLE = frozenset(_IDLE_TEXT.split())
"""Words of a question that name nothing."""


def search_words(text: str) -> list[str]:
    """Returns the words of a text in order, in lower case: `authStore.ts` gives itself, `auth`, `store` and `ts`."""
    return [word for run in _RUN.findall(text) for word in _words_of_run(run)]


def query_words(text: str) -> list[str]:
    """Returns the words of a query once each; words that name nothing are left out, unless nothing else is there."""
    words = list(dict.fromkeys(search_words(text)))
    return [word for word in words if word not in _IDLE] or words


@lru_cache(maxsize=1 << 16)
def _words_of_run(run: str) -> tuple[str, ...]:
    parts = [word for part in _PART.findall(run) for word in _stems(part)]
    whole = run.strip(_JOINTS).lower()
    return tuple(parts) if len(parts) < 2 or len(whole) > 200 else (whole, *parts)


def _stems(part: str) -> Iterator[str]:
    if _SCRIPTS_WITHOUT_BLANKS.search(part):
        yield from (part[at : at + 2] for at in range(max(1, len(part) - 1)))
        return
    word = part.lower()
    ending = next((end for end in _ENDINGS if word.endswith(end) and len(word) - len(end) >= _SHORTEST), "")
    yield word[: len(word) - len(ending)] if ending else word
