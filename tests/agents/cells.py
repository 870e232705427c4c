"""The cells of the table that `make test-agents` prints, as a test writes them down while it runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

import pytest
from driving import Agent

COLUMNS = ("proxy", "serve", "resume", "undo", "memory tools of the proxy", "memory tools of serve")


class Cells:
    """The columns that one test tries for one agent."""

    def __init__(self, record: Callable[[str, object], None], kind: type[Agent], *columns: str) -> None:
        assert set(columns) <= set(COLUMNS)
        self._record = record
        record("agent", kind.name)
        for column in columns:
            record("tries", column)

    def passes(self, column: str) -> None:
        """Writes down that a column holds; one that a test tries and that is not written down has failed."""
        self._record("passes", column)

    def skips(self, column: str, reason: str) -> NoReturn:
        """Writes down why a column is not run, and skips the test."""
        self._record("skips", f"{column}: {reason}")
        pytest.skip(reason)
