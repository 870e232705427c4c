"""Rows of a log as a crash leaves them: records glued on one line, half a record before a whole one, half a character.

Knows JSON and no session format.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator

_TORN = re.compile("[\udc80-\udcff]")
"""What `surrogateescape` makes of a byte that is no UTF-8."""
_START = re.compile(r'\{\s*"')
_TRIES = 500  # places in a row that are tried as the start of a whole record


def find_torn(text: str) -> frozenset[int]:
    """Returns the 1-based lines with bytes that were no UTF-8."""
    if text.isascii() or not _TORN.search(text):
        return frozenset()
    return frozenset(number for number, row in enumerate(text.split("\n"), 1) if _TORN.search(row))


def split_glued(rows: Iterable[str]) -> Iterator[str]:
    """Yields the rows; one that holds a whole record and more becomes several."""
    for row in rows:
        yield from _split_row(row) if row.count("{") > 1 and not _is_json(row) else (row,)


def _is_json(row: str) -> bool:
    try:
        json.loads(row)
    except (ValueError, RecursionError):
        return False
    return True


def _split_row(row: str) -> list[str]:
    text = row.strip()
    if not text.startswith("{"):
        return [row]
    try:
        value, end = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return _split_before_whole(row)
    rest = text[end:].lstrip()
    if not isinstance(value, dict) or not rest.startswith("{"):
        return [row]
    return [text[:end], *(_split_row(rest) if not _is_json(rest) else [rest])]


def _split_before_whole(row: str) -> list[str]:
    """Returns half a record and the whole one behind it. What stands inside a record never ends with the row."""
    for tried, start in enumerate(_START.finditer(row, 1)):
        if tried == _TRIES:
            break
        if _is_json(row[start.start() :]):
            return [row[: start.start()], row[start.start() :]]
    return [row]
