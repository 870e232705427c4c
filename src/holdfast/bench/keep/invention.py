"""Invented names, paths and numbers: nobody can guess them, so whoever writes them has read them."""

from __future__ import annotations

from random import Random

_ONSETS = (
    "b",
    "br",
    "d",
    "dr",
    "f",
    "fl",
    "g",
    "gr",
    "k",
    "kl",
    "l",
    "m",
    "n",
    "p",
    "pl",
    "r",
    "s",
    "st",
    "t",
    "tr",
    "v",
    "z",
)
_VOWELS = ("a", "e", "i", "o", "u")
_CODAS = ("", "l", "m", "n", "r", "s", "x", "nd", "rk", "st")


def invent_word(random: Random, syllables: int = 2) -> str:
    """Returns a lower-case word that stands in no dictionary on purpose, e.g. `drolvex`."""
    parts = (random.choice(_ONSETS) + random.choice(_VOWELS) for _ in range(syllables))
    return "".join(parts) + random.choice(_CODAS)


def invent_words(random: Random, count: int) -> list[str]:
    """Returns `count` different words."""
    found: dict[str, None] = {}
    while len(found) < count:
        found[invent_word(random)] = None
    return list(found)


def invent_number(random: Random, low: int = 1000, high: int = 9999) -> int:
    """Returns a number that is not round: no digit zero stands at its end."""
    return random.randint(low, high - 9) // 10 * 10 + random.randint(1, 9)
