"""Holdfast's own agent as an executor: the prompt on standard input, JSON lines as it works, the result at the end.

An attempt that was killed is resumed from its trajectory by the next one: no action is lost or done twice.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from holdfast.agent import AgentOptions, AgentRun, Hooks, Limits, run_agent
from holdfast.agent.open_model import open_model
from holdfast.agent.state import RunState
from holdfast.agent.trajectory import LOG, read_rows
from holdfast.errors import HoldfastError
from holdfast.queue.lease import GIVEN, read_exit, read_json
from holdfast.transcript.turn_rows import decode_turn

TRAJECTORY = "agent"


def work(attempt: Path, folder: str, model: str, context: str, mode: str, limits: Limits) -> AgentRun:
    """Does the task that stands on standard input. Raises as `run_agent` does."""
    sandbox = "none" if mode == "dangerously_skip" else "auto"
    first = find_first(attempt)
    hooks = Hooks(report=_report, inbox=open_inbox(attempt, first).read)
    options = AgentOptions(sandbox=sandbox, limits=limits)
    return run_agent(sys.stdin.read(), folder, open_model(model), context, options, hooks, first / TRAJECTORY)


def find_first(attempt: Path) -> Path:
    """Returns the attempt whose run this one goes on with: the one before, if that was killed or stopped, or itself."""
    before = attempt.parent / str(int(attempt.name) - 1)
    end = read_exit(before)
    if (before / "order.json").exists() and (end is None or end.reason == "stopped"):
        return find_first(before)
    return attempt


@dataclass
class Inbox:
    """A person's messages: those of earlier attempts, then the file into which new ones come."""

    path: Path
    earlier: Sequence[str] = ()
    passed: Counter[str] = field(default_factory=Counter)
    """Messages that the run has, with how often; each is given once, whichever attempt was told."""

    def read(self) -> Sequence[str]:
        """Returns the messages that the run does not have yet."""
        text = self.path.read_text("utf-8") if self.path.exists() else ""
        parts = re.split(r"^- ", text, flags=re.MULTILINE)[1:]
        told = [*self.earlier, *(part.rstrip("\n").replace("\n  ", "\n") for part in parts)]
        had, new = self.passed.copy(), []
        for words in told:
            if had[words]:
                had[words] -= 1
            else:
                new.append(words)
        self.passed.update(new)
        return new


def open_inbox(attempt: Path, first: Path) -> Inbox:
    """Returns the messages of an attempt which goes on with the run of `first`, whose prompt had some already."""
    prompt = read_json(first / GIVEN) or {}
    given = read_json(attempt / GIVEN) or {}
    earlier = given.get("texts", [])[len(prompt.get("texts", [])) :]
    log = first / TRAJECTORY
    rows = read_rows(log) if (log / LOG).exists() else []
    said = [decode_turn(row["turn"]) for row in rows if row["kind"] == "turn"]
    passed = Counter(turn.text for turn in said[2:])  # behind the system prompt and the task
    return Inbox(attempt / "messages.md", earlier, passed)


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
