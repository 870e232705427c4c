"""A real agent in a home of its own, before a scripted provider, or a skip where it is not installed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest
import upstream
from agent_kinds import PROGRAMS, require
from driving import Agent, Place


class Start(Protocol):
    """Starts a kind of agent before an address; before the provider itself where none is given."""

    def __call__(self, kind: type[Agent], address: str = "") -> Agent: ...


@pytest.fixture
def provider() -> Iterator[upstream.Upstream]:
    """Gives a scripted provider."""
    with upstream.serve() as running:
        yield running


@pytest.fixture
def start(tmp_path: Path, provider: upstream.Upstream) -> Start:
    """Gives a function that starts a kind of agent."""
    for name in ("home", "work"):
        (tmp_path / name).mkdir()

    def start_kind(kind: type[Agent], address: str = "") -> Agent:
        require(kind)
        agent = kind(Place(PROGRAMS, tmp_path / "home", tmp_path / "work", provider, address))
        agent.configure()
        provider.toolless = not agent.tool
        return agent

    return start_kind
