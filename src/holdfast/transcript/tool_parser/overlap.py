"""The part of a text that may begin a marker."""

from __future__ import annotations


def count_overlap(text: str, marker: str) -> int:
    """Counts the characters at the end of a text that may begin a marker, which is not whole yet."""
    return next((n for n in range(min(len(marker) - 1, len(text)), 0, -1) if marker.startswith(text[-n:])), 0)
