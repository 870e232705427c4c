"""Strings that come from a session, made fit to show: nothing in them steers a terminal or a reader's eye."""

from __future__ import annotations

import re

from rich.text import Text

_INVISIBLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Controls, overrides of the reading direction, and lone surrogates (which no file can hold)."""


def visible(value: str) -> str:
    """Replaces control and direction characters by a mark."""
    return _INVISIBLE.sub("\N{REPLACEMENT CHARACTER}", value)


def plain(value: str, style: str = "") -> Text:
    """Returns a `Text` for a terminal, because rich reads a `str` as markup and turns `:bug:` into a picture."""
    return Text(visible(value), style=style)
