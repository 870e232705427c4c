"""Mends the links of log lines that named a record which was taken out of the file.

An agent walks from the last line to its parent, and stops where there is none: all that stands before it would be lost.
"""

from __future__ import annotations

import json
from typing import Any

from holdfast.transcript.document import Document


def relink_ids(document: Document, kept: int) -> str:
    """Returns a log of lines with `id` and `parentId`, mended behind the first `kept` ones."""
    return relink_lines(document, kept, "id", "parentId")


def relink_uuids(document: Document, kept: int) -> str:
    """Returns a log of lines with `uuid` and `parentUuid`, mended behind the first `kept` ones."""
    return relink_lines(document, kept, "uuid", "parentUuid")


def relink_lines(document: Document, kept: int, own: str, parent: str) -> str:
    """Returns the log in which every line behind the first `kept` ones whose parent is nowhere hangs on the line above.

    `own` and `parent` are the fields with a line's id and its parent's.
    """
    rows = document.text.split("\n")
    ids: set[str] = set()
    above: str | None = None
    for at, entry in enumerate(document.lines):
        value = entry.value
        if not isinstance(value, dict) or parent not in value or not isinstance(value.get(own), str):
            continue
        if at >= kept and isinstance(value[parent], str) and value[parent] not in ids:
            replace_row(rows, entry.number, {**value, parent: above})
        above = value[own]
        ids.add(above)
    return "\n".join(rows)


def replace_row(rows: list[str], number: int, value: dict[str, Any]) -> None:
    """Puts another value into the line with this number, in the agents' own layout."""
    end = "\r" if rows[number - 1].endswith("\r") else ""
    rows[number - 1] = json.dumps(value, ensure_ascii=False, separators=(",", ":")) + end
