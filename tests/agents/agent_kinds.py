"""The agents that are run, the most used first, and where their programs are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from aider import Aider
from claude_code import ClaudeCode
from codex import Codex
from driving import Agent
from gemini_cli import GeminiCli, QwenCode
from install import folder_of
from mini_swe_agent import MiniSweAgent
from opencode import Opencode
from pi import Pi

AGENTS: tuple[type[Agent], ...] = (ClaudeCode, Codex, Opencode, Pi, MiniSweAgent, GeminiCli, QwenCode, Aider)
PROGRAMS = Path(os.environ.get("HOLDFAST_AGENTS", ""))


def require(kind: type[Agent]) -> None:
    """Skips the test where the agent is not installed."""
    if not folder_of(kind.name, PROGRAMS).is_dir():
        pytest.skip("`make test-agents` installs the agents that this runs")
