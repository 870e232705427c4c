"""pi."""

from __future__ import annotations

import json
from pathlib import Path

from driving import Agent

_FREE = {"input": 0, "output": 0, "cacheRead": 0, "cacheWrite": 0}


class Pi(Agent):
    """pi, as `pi -p`."""

    name = "pi"
    tool = "bash"

    def configure(self) -> None:
        model = {"id": "scripted", "name": "scripted", "reasoning": False, "input": ["text"], "cost": _FREE}
        model |= {"contextWindow": 128_000, "maxTokens": 4096}
        wire = {"baseUrl": f"{self.place.url}/v1", "api": "openai-completions", "apiKey": "sk-none"}
        folder = self.place.home / ".pi" / "agent"
        folder.mkdir(parents=True)
        (folder / "models.json").write_text(json.dumps({"providers": {"scripted": {**wire, "models": [model]}}}))

    def variables(self) -> dict[str, str]:
        return {"PI_OFFLINE": "1", "PI_SKIP_VERSION_CHECK": "1", "PI_TELEMETRY": "0"}

    def command(self, prompt: str, *, resume: bool) -> list[str]:
        again = ["--continue"] if resume else []
        return [self.program("pi"), "-p", "--offline", "--provider", "scripted", "--model", "scripted", *again, prompt]

    def session(self) -> Path:
        return self.only(".pi/agent/sessions/*/*.jsonl")
