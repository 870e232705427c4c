"""Waiting for what other threads and processes do."""

from __future__ import annotations

import time
from collections.abc import Callable

PATIENCE = 60.0
"""Seconds until something that should happen counts as never happening; only a test that fails waits so long."""


def until(happens: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Returns as soon as `happens()` is true; fails if it is not within `seconds`."""
    end = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < end, f"not so after {seconds:g} s"
        time.sleep(0.005)
