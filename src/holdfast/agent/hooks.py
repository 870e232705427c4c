"""The functions by which a user takes part in a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from holdfast.agent.state import RunState
from holdfast.transcript.turn import ToolCall

Approve = Callable[[ToolCall], str]
"""Called with each call before it is run; returns the user's words against it, empty to let it run. May raise UserStop.
"""
Report = Callable[[RunState, str], None]
"""Called with the state of the run and what it does next."""
Inbox = Callable[[], Sequence[str]]
"""Called before each step; returns what the user has said meanwhile."""


@dataclass(frozen=True)
class Hooks:
    """All of them; None leaves the user out."""

    approve: Approve | None = None
    report: Report | None = None
    inbox: Inbox | None = None
