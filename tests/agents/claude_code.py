"""Claude Code."""

from __future__ import annotations

from pathlib import Path

from driving import Agent

_OFF = ("DISABLE_TELEMETRY", "DISABLE_AUTOUPDATER", "DISABLE_ERROR_REPORTING")


class ClaudeCode(Agent):
    """Claude Code, as `claude -p`."""

    name = "claude_code"
    tool = "Bash"
    key = "sk-ant-none"
    added = r"<system-reminder>.*?</system-reminder>"

    def configure(self) -> None:
        """Has no settings beside the variables."""

    def variables(self) -> dict[str, str]:
        off = {name: "1" for name in (*_OFF, "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC")}
        return {"ANTHROPIC_BASE_URL": self.place.url, "ANTHROPIC_API_KEY": self.key, **off}

    def arguments(self, shell: str) -> dict[str, str]:
        return {"command": shell, "description": "Runs it"}

    def command(self, prompt: str, *, resume: bool) -> list[str]:
        free = ["--allowedTools", "Bash Read", "--model", "claude-sonnet-4-5"]
        return [self.program("claude"), "-p", prompt, *(["--continue"] if resume else []), *free]

    def session(self) -> Path:
        return self.only(".claude/projects/*/*.jsonl")
