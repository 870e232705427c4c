"""mini-swe-agent; its program resumes nothing, so a trajectory is taken up by its library."""

from __future__ import annotations

from pathlib import Path

from driving import Agent

_TAKE_UP = Path(__file__).parent / "take_up_trajectory.py"


class MiniSweAgent(Agent):
    """mini-swe-agent, as `mini`, and then as its library."""

    name = "mini_swe_agent"
    tool = "bash"

    def configure(self) -> None:
        """Has no settings beside the variables."""

    def variables(self) -> dict[str, str]:
        wire = {"OPENAI_API_BASE": f"{self.place.url}/v1", "OPENAI_API_KEY": "sk-none", "TERM": "xterm"}
        quiet = {"MSWEA_CONFIGURED": "true", "MSWEA_COST_TRACKING": "ignore_errors", "MSWEA_SILENT_STARTUP": "1"}
        return {**wire, **quiet, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}

    def command(self, prompt: str, *, resume: bool) -> list[str]:
        if resume:
            return [self.program("python"), str(_TAKE_UP), str(self.session()), prompt]
        once = ["-y", "--exit-immediately", "-l", "0", "-o", str(self.session())]
        return [self.program("mini"), "-m", "openai/scripted", *once, "-t", prompt]

    def session(self) -> Path:
        return self.place.home / "run.traj.json"

    def last_shell(self) -> str:
        return "echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT"
