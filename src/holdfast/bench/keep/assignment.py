"""The assignment: what was agreed, what is asked at the end, and the facts by which the answer is judged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Assignment:
    """One small coding task whose right answer needs what was agreed long before."""

    family: str
    topic: str
    """The part of the project that the agreement is about, in a few words."""
    rules: tuple[str, ...]
    """The agreement, a sentence each, as the user says it or a file of the project has it."""
    request: str
    """The last turn of the user; it holds no fact of the agreement."""
    language: str
    """The info string of the code block that is asked for: `python` or `json`."""
    values: Mapping[str, Any] = field(default_factory=dict)
    """The agreed values, as `checks.py` compares them."""
    facts: tuple[str, ...] = ()
    """Names of the facts that the check reports."""
    opening: str = ""
    """The beginning of the code that is asked for; the answer goes on from there, as in an editor."""
    solution: str = ""
    """An answer that keeps every fact."""
    begun: str = ""
    """A file that the agent wrote when half of the task was done; empty where nothing was begun."""
