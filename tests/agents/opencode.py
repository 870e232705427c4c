"""opencode."""

from __future__ import annotations

import json
import re
from pathlib import Path

from driving import Agent

_OFF = ("AUTOUPDATE", "LSP_DOWNLOAD", "MODELS_FETCH", "DEFAULT_PLUGINS", "SHARE")


class Opencode(Agent):
    """opencode, as `opencode run`; its sessions are in a database, from which they are exported."""

    name = "opencode"
    tool = "bash"

    def configure(self) -> None:
        model = {"name": "scripted", "limit": {"context": 128_000, "output": 4096}}
        options = {"baseURL": f"{self.place.url}/v1", "apiKey": "sk-none"}
        provider = {"npm": "@ai-sdk/openai-compatible", "name": "scripted", "options": options}
        settings = {
            "autoupdate": False,
            "share": "disabled",
            "permission": {"*": "allow"},
            "model": "scripted/scripted",
            "small_model": "scripted/scripted",
            "provider": {"scripted": {**provider, "models": {"scripted": model}}},
        }
        folder = self.place.home / ".config" / "opencode"
        folder.mkdir(parents=True)
        (folder / "opencode.json").write_text(json.dumps(settings))

    def variables(self) -> dict[str, str]:
        return {f"OPENCODE_DISABLE_{name}": "1" for name in _OFF}

    def arguments(self, shell: str) -> dict[str, str]:
        return {"command": shell, "description": "Runs it"}

    def command(self, prompt: str, *, resume: bool) -> list[str]:
        words = prompt.split()  # it puts quotes around one argument of several words
        return [self.program("opencode"), "run", *(["--continue"] if resume else []), *words]

    def session(self) -> Path:
        listed = self.run([self.program("opencode"), "session", "list"])
        newest = re.findall(r"ses_\w+", listed)[0]
        exported = self.run([self.program("opencode"), "export", newest])
        path = self.place.home / "session.json"
        path.write_text(exported[exported.index("{") : exported.rindex("}") + 1])
        return path

    def give_back(self, path: Path) -> None:
        printed = self.run([self.program("opencode"), "import", str(path)])
        assert "Imported session" in printed, printed
