"""A real agent in a home of its own, before a scripted provider, or a skip where it is not installed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import upstream
from driving import Agent, Place
from install import folder_of

PROGRAMS = Path(os.environ.get("HOLDFAST_AGENTS", ""))


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[type[Agent]], Agent]]:
    """Gives a function that starts a kind of agent."""
    for name in ("home", "work"):
        (tmp_path / name).mkdir()
    with upstream.serve() as provider:

        def start_kind(kind: type[Agent]) -> Agent:
            if not folder_of(kind.name, PROGRAMS).is_dir():
                pytest.skip("`make test-agents` installs the agents that this runs")
            agent = kind(Place(PROGRAMS, tmp_path / "home", tmp_path / "work", provider))
            agent.configure()
            provider.toolless = not agent.tool
            return agent

        yield start_kind
