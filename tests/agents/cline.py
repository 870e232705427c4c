"""Cline, the program for the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from driving import Agent


class Cline(Agent):
    """Cline, as `cline PROMPT`."""

    name = "cline"
    tool = "run_commands"

    def configure(self) -> None:
        named = ["-p", "openai", "-k", "sk-none", "-m", "scripted", "-b", f"{self.place.url}/v1"]
        self.run([self.program("cline"), "auth", *named])

    def variables(self) -> dict[str, str]:
        return {"CLINE_TELEMETRY_DISABLED": "1", "CLINE_NO_AUTO_UPDATE": "1"}

    def arguments(self, shell: str) -> dict[str, Any]:
        return {"commands": [shell]}

    def command(self, prompt: str, *, resume: bool) -> list[str]:
        again = ["--id", self.session().name.split(".")[0]] if resume else []
        return [self.program("cline"), "-P", "openai-compatible", "-m", "scripted", *again, prompt]

    def session(self) -> Path:
        return self.only(".cline/data/sessions/*/*.messages.json")
