"""The folder of a run: its log, which is the truth, and the same run in mini-swe-agent's format and as ATIF.

Each event is on the disk before what follows from it happens, so that a killed run goes on without a lost or doubled
action. The two other files are written whole after each step, for other programs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from holdfast import __version__
from holdfast.agent.state import Row, RunState, apply
from holdfast.errors import BadInput
from holdfast.storage import files
from holdfast.transcript.provider_requests import parse_arguments, to_openai_message
from holdfast.transcript.turn import Role, Turn
from holdfast.transcript.turn_rows import decode_turn

LOG, MINI, ATIF = "run.jsonl", "run.traj.json", "run.atif.json"


class Trajectory:
    """A run on disk. One writer at a time."""

    def __init__(self, folder: Path) -> None:
        """Opens the folder, or creates it. Raises BadInput for a log that is none, Failed if another run writes it."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._lines = files.Lines(folder / LOG, mode=0o600)
        try:
            self._lines.lock()
            self.rows: list[Row] = list(read_rows(folder))
        except BaseException:
            self._lines.close()
            raise
        self.state = replay(self.rows)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()

    @property
    def about(self) -> Row:
        """The first event: the task and the settings; empty for a new run."""
        return self.rows[0] if self.rows else {}

    def record(self, kind: str, **fields: Any) -> RunState:
        """Writes an event, durably, and returns the state after it. Raises OSError with the name of the file."""
        row = {"kind": kind, **fields, "at": datetime.now(UTC).isoformat(timespec="milliseconds")}
        self._lines.append(json.dumps(row, ensure_ascii=False), sync=True)
        self.rows.append(row)
        self.state = apply(self.state, row)
        return self.state

    def save(self) -> None:
        """Writes the files for other programs."""
        for name, made in ((MINI, to_mini(self.rows)), (ATIF, to_atif(self.rows))):
            files.replace(self.folder / name, json.dumps(made, ensure_ascii=False, indent=1).encode(), mode=0o600)


def read_rows(folder: Path) -> list[Row]:
    """Reads a log; a line that a crash left half written is no event. Raises BadInput for what is no log of a run."""
    try:
        lines = (folder / LOG).read_bytes().splitlines()
    except FileNotFoundError:
        raise BadInput(
            f"{folder} holds no run; give the folder of one, or a name that `holdfast agent` printed"
        ) from None
    rows: list[Row] = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            if not isinstance(row, dict) or (row.get("kind") == "run") != (number == 1):
                raise ValueError("no event of a run")
        except ValueError as error:
            if number == len(lines):
                return rows
            raise BadInput(f"{folder / LOG}:{number}: {error}; give the folder of another run") from None
        rows.append(row)
    return rows


def replay(rows: Sequence[Row]) -> RunState:
    """Returns the state after all events."""
    state = RunState()
    for row in rows:
        state = apply(state, row)
    return state


def _pair_turns(rows: Sequence[Row]) -> list[tuple[Turn, Row]]:
    """Returns every turn with its event."""
    turns: list[tuple[Turn, Row]] = []
    for row in rows:
        if "turn" in row:
            turns.append((decode_turn(row["turn"]), row))
        if row.get("problem"):
            turns.append((Turn(Role.USER, row["problem"]), row))
    return turns


def to_mini(rows: Sequence[Row]) -> dict[str, Any]:
    """Returns the run in mini-swe-agent's format."""
    about, state = rows[0], replay(rows)
    messages = [_mini_message(turn, row, about["calls"] != "api") for turn, row in _pair_turns(rows)]
    if state.status:
        extra = {"exit_status": state.status, "submission": state.submission or ""}
        messages.append({"role": "exit", "content": state.text, "extra": extra})
    info = {
        "model_stats": {"instance_cost": state.account.money, "api_calls": state.account.calls},
        "config": {key: value for key, value in about.items() if key != "kind"},
        "mini_version": f"holdfast {__version__}",
        "exit_status": state.status,
        "submission": state.submission or "",
    }
    return {"info": info, "messages": messages, "trajectory_format": "mini-swe-agent-1.1"}


def _mini_message(turn: Turn, row: Row, in_text: bool) -> dict[str, Any]:
    extra: dict[str, Any] = {"timestamp": datetime.fromisoformat(row["at"]).timestamp()}
    if row["kind"] == "answer" and turn.role is Role.ASSISTANT:
        extra |= {"cost": row["money"], "response": {"usage": _openai_usage(row["usage"])}}
        if in_text:
            commands = [parse_arguments(call) for call in turn.calls]
            extra["actions"] = [{"command": c.get("command", json.dumps(c, ensure_ascii=False))} for c in commands]
    if "returncode" in row:
        extra["returncode"] = row["returncode"]
    if in_text:
        turn = replace(turn, calls=(), call_id="", role=Role.USER if turn.role is Role.TOOL else turn.role)
    return {**to_openai_message(turn), "extra": extra}


def _openai_usage(usage: Mapping[str, int]) -> dict[str, Any]:
    prompt = sum(usage[key] for key in ("input", "cached", "written", "written_1h"))
    details = {"cached_tokens": usage["cached"]}
    return {"prompt_tokens": prompt, "completion_tokens": usage["output"], "prompt_tokens_details": details}


def to_atif(rows: Sequence[Row]) -> dict[str, Any]:
    """Returns the run as an ATIF trajectory."""
    about, account = rows[0], replay(rows).account
    steps: list[dict[str, Any]] = []
    for turn, row in _pair_turns(rows):
        if turn.role is Role.TOOL:
            result = {"source_call_id": turn.call_id, "content": turn.text}
            steps[-1].setdefault("observation", {"results": []})["results"].append(result)
        else:
            steps.append({"step_id": len(steps) + 1, "timestamp": row["at"], **_atif_step(turn, row)})
    totals = {
        "total_prompt_tokens": account.usage.prompt,
        "total_completion_tokens": account.usage.output,
        "total_cached_tokens": account.usage.cached,
        "total_cost_usd": account.money,
        "total_steps": len(steps),
    }
    agent = {"name": "holdfast", "version": __version__, "model_name": about["model"]}
    return {
        "schema_version": "ATIF-v1.7",
        "session_id": about["id"],
        "agent": agent,
        "steps": steps,
        "final_metrics": totals,
    }


def _atif_step(turn: Turn, row: Row) -> dict[str, Any]:
    if turn.role is not Role.ASSISTANT:
        return {"source": turn.role.value, "message": turn.text}
    step: dict[str, Any] = {"source": "agent", "message": turn.text}
    if turn.reasoning:
        step["reasoning_content"] = turn.reasoning
    if turn.calls:
        step["tool_calls"] = [
            {"tool_call_id": call.id, "function_name": call.name, "arguments": parse_arguments(call)}
            for call in turn.calls
        ]
    usage = _openai_usage(row["usage"])
    metrics = {key: usage[key] for key in ("prompt_tokens", "completion_tokens")}
    return {**step, "metrics": {**metrics, "cached_tokens": row["usage"]["cached"], "cost_usd": row["money"]}}
