"""The folders in which coding agents keep the sessions of a project."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class AgentFolder:
    """The folder of an agent's sessions, and which of its files are of one project."""

    folder: Path
    belongs: Callable[[Path], bool] = lambda _: True


def _claude_code(home: Path, project: Path) -> AgentFolder:
    return AgentFolder(home / ".claude" / "projects" / re.sub(r"[^A-Za-z0-9]", "-", str(project)))


def _codex(home: Path, project: Path) -> AgentFolder:
    def belongs(path: Path) -> bool:  # all projects are in one folder; the first line of a rollout names its own
        try:
            with path.open(encoding="utf-8", errors="replace") as file:
                return bool(json.loads(file.readline())["payload"]["cwd"] == str(project))
        except (OSError, ValueError, KeyError, TypeError):  # no rollout
            return False

    return AgentFolder(home / ".codex" / "sessions", belongs)


def _pi(home: Path, project: Path) -> AgentFolder:
    return AgentFolder(home / ".pi" / "agent" / "sessions" / f"--{str(project).strip('/').replace('/', '-')}--")


AGENT_FOLDERS: dict[str, Callable[[Path, Path], AgentFolder]] = {
    "claude-code": _claude_code,
    "codex": _codex,
    "pi": _pi,
}
"""By agent: `(home folder, project folder) -> folder of its sessions`."""
