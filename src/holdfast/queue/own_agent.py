"""Holdfast's own agent as an executor: the prompt on standard input, JSON lines as it works, the result at the end.

An attempt that was killed is resumed from its trajectory by the next one: no action is lost or done twice.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from holdfast.agent import AgentOptions, AgentRun, Hooks, Limits, run_agent
from holdfast.agent.open_model import open_model
from holdfast.agent.state import RunState
from holdfast.errors import HoldfastError
from holdfast.queue.lease import read_exit

TRAJECTORY = "agent"


def work(attempt: Path, folder: str, model: str, context: str, mode: str, limits: Limits) -> AgentRun:
    """Does the task that stands on standard input. Raises as `run_agent` does."""
    sandbox = "none" if mode == "dangerously_skip" else "auto"
    hooks = Hooks(report=_report, inbox=Inbox(attempt / "messages.md").read)
    run = find_trajectory(attempt)
    return run_agent(
        sys.stdin.read(), folder, open_model(model), context, AgentOptions(sandbox=sandbox, limits=limits), hooks, run
    )


def find_trajectory(attempt: Path) -> Path:
    """Returns the folder of the run: that of the attempt before, if it was killed or stopped, else a new one."""
    before = attempt.parent / str(int(attempt.name) - 1)
    end = read_exit(before)
    if (before / "order.json").exists() and (end is None or end.reason == "stopped"):
        return find_trajectory(before)
    return attempt / TRAJECTORY


class Inbox:
    """The file of a person's messages, read from where it was left."""

    def __init__(self, path: Path) -> None:
        self.path, self._passed = path, 0

    def read(self) -> Sequence[str]:
        """Returns the messages that have come since the last call."""
        lines = self.path.read_text("utf-8").splitlines() if self.path.exists() else []
        new, self._passed = lines[self._passed :], len(lines)
        return [line.removeprefix("- ") for line in new]


def write_result(run: AgentRun) -> None:
    """Prints the result as Claude Code does."""
    used = run.account.usage + run.account.compactor
    usage = {
        "input_tokens": used.input,
        "cache_creation_input_tokens": used.written + used.written_1h,
        "cache_read_input_tokens": used.cached,
        "output_tokens": used.output,
    }
    ok = run.status == "submitted"
    told = {"type": "result", "result": run.text, "is_error": not ok, "subtype": "success" if ok else run.status}
    told |= {} if ok else {"errors": [f"{run.status}: {run.text}"]}
    _print({**told, "num_turns": run.steps, "total_cost_usd": run.account.money, "usage": usage})


def _report(state: RunState, what: str) -> None:
    used = state.account.usage + state.account.compactor
    _print({"type": "progress", "step": state.steps, "does": what, "tokens": used.prompt + used.output})


def _print(value: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    _attempt, _folder, _model, _context, _mode, _turns, _budget = sys.argv[1:]
    try:
        _run = work(Path(_attempt), _folder, _model, _context, _mode, Limits(steps=int(_turns), money=float(_budget)))
    except HoldfastError as error:
        sys.exit(f"holdfast: {error}")
    write_result(_run)
    sys.exit(0 if _run.status == "submitted" else 1)
