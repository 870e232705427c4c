"""The end of an attempt: what its program came to, the task's next status, and the record of it."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from holdfast.queue import worktrees
from holdfast.queue.events import Event, Record
from holdfast.queue.executors import Outcome, find_executor
from holdfast.queue.supervise import Exit
from holdfast.queue.tasks import Task

_SKIPPED = {".git", "node_modules", ".venv", "__pycache__", ".holdfast"}
_FILES = 200  # names of changed files that are recorded
_LIMITS = {
    "seconds": "it ran longer than {max_seconds:g} s (max_seconds)",
    "stall": "it printed nothing for {stall_seconds:g} s (stall_seconds)",
    "tokens": "it used more than {max_tokens} tokens (max_tokens)",
}
_OWN = ("tasks.json", "status.md", "status.html")


def read_outcome(task: Task, folder: Path, end: Exit) -> Outcome:
    """Returns what an attempt came to, from what its program printed and how it ended."""
    try:
        printed = (folder / "out").read_bytes().decode("utf-8", "replace")
    except FileNotFoundError:  # the task deleted the queue's folder
        printed = end.tail
    outcome = find_executor(task.config).read(printed, end.code)
    if end.reason == "missing":
        return Outcome(False, error=f"it could not be started: {end.tail}")
    if end.reason in _LIMITS:
        why = _LIMITS[end.reason].format(**task.config.model_dump())
        return replace(outcome, ok=False, error=f"stopped: {why}; {end.tokens} tokens, {end.output} bytes printed")
    if not outcome.ok and (told := end.tail.strip()) and told not in outcome.error and len(outcome.error) < 100:
        return replace(outcome, error=f"{outcome.error}: {told[-500:]}")
    return outcome


def next_status(task: Task, record: Record, outcome: Outcome, merged: worktrees.MergeResult) -> str:
    """Returns the status of a task after an attempt with this outcome."""
    if outcome.ok:
        return "awaiting_review" if merged.error or task.checkpoint == "pause" else "completed"
    if record.wish == "skip":
        return "skipped"
    if record.failures < task.most_retries:
        return "queued"
    return "skipped" if task.on_failure == "skip" else "failed"


def make_result(record: Record, outcome: Outcome, merged: worktrees.MergeResult, changed: list[str]) -> dict[str, Any]:
    """Returns the record of a task in Bearing's fields. Money and tokens add up over its attempts."""
    before = record.result
    sums = ("cost_usd", "turns_used", "input_tokens", "output_tokens", "cache_read_tokens")
    told = {name: before.get(name, 0) + getattr(outcome, name) for name in sums}
    told |= {"summary": outcome.summary, "error": outcome.error or merged.error, "files_changed": changed}
    if merged.commit:
        told["commit"] = merged.commit
    if merged.conflicts:
        told["conflicts"] = list(merged.conflicts)
    return {**before, **told}


def find_changes(folder: Path, since: float) -> list[str]:
    """Returns the files under `folder` that were written since then, hidden and installed ones left out."""
    found: list[str] = []
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in _SKIPPED]
        for name in names:
            path = Path(place, name)
            try:
                if path.stat().st_mtime > since and str(path.relative_to(folder)) not in _OWN:
                    found.append(str(path.relative_to(folder)))
            except OSError:  # deleted meanwhile
                continue
    return sorted(found)[:_FILES]


def describe_end(task: Task, event: Event) -> str:
    """Returns the line that tells how an attempt ended."""
    result, status = event["result"], event["status"]
    money = f", ${result['cost_usd']:.2f}" if result["cost_usd"] else ""
    took = f"{result.get('seconds', 0):.0f} s{money}"
    if event["outcome"] == "failed":
        then = {"queued": "tried again", "failed": "failed", "skipped": "skipped"}[status]
        return f"{task.id} failed ({took}), {then}: {' '.join(result['error'].split())[:300]}"
    if status == "awaiting_review":
        why = result["error"] or "its checkpoint pauses"
        return f"{task.id} waits for review ({took}): {why}; see status.md, then approve, retry or skip it"
    return f"completed {task.id} ({took}){': review recommended' if task.checkpoint == 'notify' else ''}"
