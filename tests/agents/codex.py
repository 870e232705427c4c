"""Codex."""

from __future__ import annotations

from pathlib import Path

from driving import Agent

_SETTINGS = """\
model = "gpt-5.2-codex"
model_provider = "scripted"
check_for_update_on_startup = false
[analytics]
enabled = false
[feedback]
enabled = false
[otel]
exporter = "none"
metrics_exporter = "none"
trace_exporter = "none"
[model_providers.scripted]
name = "scripted"
base_url = "{url}/v1"
env_key = "OPENAI_API_KEY"
wire_api = "responses"
"""


class Codex(Agent):
    """Codex, as `codex exec`."""

    name = "codex"
    tool = "exec_command"
    argument = "cmd"
    added = r"<environment_context>.*?</environment_context>"

    def configure(self) -> None:
        folder = self.place.home / ".codex"
        folder.mkdir(parents=True)
        (folder / "config.toml").write_text(_SETTINGS.format(url=self.place.url))

    def variables(self) -> dict[str, str]:
        return {"OPENAI_API_KEY": "sk-none"}

    def command(self, prompt: str, *, resume: bool) -> list[str]:
        again = ["resume", "--last"] if resume else []
        free = ["--dangerously-bypass-approvals-and-sandbox", "--skip-git-repo-check"]
        return [self.program("codex"), "exec", *again, *free, prompt]

    def session(self) -> Path:
        return self.only(".codex/sessions/**/rollout-*.jsonl")
