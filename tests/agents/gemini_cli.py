"""Gemini CLI, and Qwen Code, which grew out of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from driving import Agent

_OFF: dict[str, Any] = {
    "general": {"enableAutoUpdate": False, "disableAutoUpdate": True, "disableUpdateNag": True},
    "privacy": {"usageStatisticsEnabled": False},
    "telemetry": {"enabled": False},
}


class GeminiCli(Agent):
    """Gemini CLI, as `gemini -p`."""

    name = "gemini_cli"
    tool = "run_shell_command"
    key = "none"
    added = r"<session_context>.*?</session_context>"

    def configure(self) -> None:
        self.write_settings(".gemini", "gemini-api-key")

    def write_settings(self, folder: str, auth: str) -> None:
        """Writes `settings.json` with a way to sign in that needs no browser."""
        path = self.place.home / folder / "settings.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({**_OFF, "security": {"auth": {"selectedType": auth}}}))

    def variables(self) -> dict[str, str]:
        here = {"GOOGLE_GEMINI_BASE_URL": self.place.url, "GEMINI_CLI_TRUST_WORKSPACE": "true"}
        return {**here, "GEMINI_API_KEY": self.key}

    def command(self, prompt: str, *, resume: bool) -> list[str]:
        again = ["--resume", "latest"] if resume else []
        return [self.program("gemini"), "-m", "gemini-2.5-flash", "--approval-mode", "yolo", *again, "-p", prompt]

    def session(self) -> Path:
        found = sorted(self.place.home.glob(".gemini/tmp/*/chats/session-*.json*"))
        return found[0]  # each start writes a file, and the words go on in the first


class QwenCode(GeminiCli):
    """Qwen Code, as `qwen -p`."""

    name = "qwen_code"
    key = "sk-none"
    added = r"<system-reminder>.*?</system-reminder>"

    def configure(self) -> None:
        self.write_settings(".qwen", "openai")

    def variables(self) -> dict[str, str]:
        wire = {"OPENAI_BASE_URL": f"{self.place.url}/v1", "OPENAI_MODEL": "scripted"}
        return {**wire, "OPENAI_API_KEY": "sk-none"}

    def arguments(self, shell: str) -> dict[str, Any]:
        return {"command": shell, "is_background": False}

    def command(self, prompt: str, *, resume: bool) -> list[str]:
        again = ["--continue"] if resume else []
        return [self.program("qwen"), "--auth-type", "openai", "--approval-mode", "yolo", *again, "-p", prompt]

    def session(self) -> Path:
        return self.only(".qwen/projects/*/chats/*.jsonl")
