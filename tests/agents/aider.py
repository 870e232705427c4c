"""Aider."""

from __future__ import annotations

from pathlib import Path

from answers import Answer
from driving import Agent

_QUIET = ("--no-check-update", "--analytics-disable", "--no-show-release-notes", "--no-show-model-warnings")
_LOCAL = ("--chat-mode", "ask", "--yes-always", "--no-auto-commits", "--no-gitignore", "--no-git", "--map-tokens", "0")


class Aider(Agent):
    """Aider, as `aider --message`; it has no tools, and asked it sends no examples."""

    name = "aider"
    tool = ""
    appends = False  # its reminder moves to the newest message
    added = r"I am not sharing the full contents of any files with you yet\.|^Ok\.$|Reply in English\.\s*$"

    def configure(self) -> None:
        """Has no settings beside its options; what it would fetch of models' prices is there."""
        caches = self.place.home / ".aider" / "caches"
        caches.mkdir(parents=True)
        (caches / "model_prices_and_context_window.json").write_text("{}")

    def variables(self) -> dict[str, str]:
        wire = {"OPENAI_API_BASE": f"{self.place.url}/v1", "OPENAI_API_KEY": "sk-none"}
        return {**wire, "AIDER_ANALYTICS_DISABLE": "1", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}

    def record(self, prompts: list[str]) -> str:
        typed = "".join(f"{line}\n" for line in (*prompts, "/exit"))
        return self.run([*self.command("", resume=False)[:-2], "--no-fancy-input", "--no-pretty"], typed)

    def command(self, prompt: str, *, resume: bool) -> list[str]:
        again = ["--restore-chat-history", "--max-chat-history-tokens", "1000000"] if resume else []
        return [self.program("aider"), "--model", "openai/scripted", *_QUIET, *_LOCAL, *again, "--message", prompt]

    def call(self, text: str, shell: str, number: int) -> Answer:
        lines = (f"worker {number} line {line} of service_{number}.py took {line * number} ms" for line in range(60))
        return Answer("\n".join((text, *lines)))

    def write_file(self, text: str, path: str, content: str, _number: int) -> Answer:
        return Answer(f"{text}\n\n{path}\n```\n{content}\n```\n")

    def work_through(self, task: str, shells: list[str]) -> str:
        words = (f"/run {shell}\n{'Go on.' if at else task}\n" for at, shell in enumerate(shells))
        edits = [word for word in self.command("", resume=False)[:-2] if word not in ("--chat-mode", "ask")]
        typed = "".join((*words, "Now write it.\n/exit\n"))
        return self.run([*edits, "--edit-format", "whole", "--no-fancy-input", "--no-pretty"], typed)

    def session(self) -> Path:
        return self.place.work / ".aider.chat.history.md"
