"""Libraries that an adapter serves and Holdfast does not need."""

from __future__ import annotations

from holdfast.errors import BadInput


class MissingExtra(BadInput, ImportError):
    """The library that an adapter is for is not installed."""


def missing_library(library: str, extra: str) -> MissingExtra:
    """Returns the error for a library that cannot be imported."""
    return MissingExtra(f"this adapter needs {library}, which cannot be imported; pip install 'holdfast[{extra}]'")
