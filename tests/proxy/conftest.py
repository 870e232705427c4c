"""What every test of the proxy needs: a broken connection is an error here, as in any server."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _hang_ups_are_errors() -> Iterator[None]:
    """The command line, run in this process by another test, makes them end the process."""
    if not hasattr(signal, "SIGPIPE"):
        yield
        return
    before = signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGPIPE, before)
