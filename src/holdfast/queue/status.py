"""The views of a queue: status.md, a page, a summary in lines, and the same as JSON."""

from __future__ import annotations

import html
import time
from collections import Counter
from datetime import UTC, datetime
from typing import Any

from holdfast.queue import lease, schedule
from holdfast.queue.events import Log, Record, State
from holdfast.queue.plan_file import retries_used
from holdfast.queue.tasks import Task
from holdfast.storage.files import replace

ICONS = {
    "queued": "⬜",
    "running": "🔄",
    "completed": "✅",
    "failed": "❌",
    "awaiting_review": "⏸️",
    "skipped": "⏭️",
}
_RESULT, _ERROR = 1500, 500


def write_pages(log: Log, problem: str = "") -> None:
    """Writes status.md and status.html of a project."""
    text = status_text(log, problem)
    replace(log.project / "status.md", text.encode("utf-8", "replace"))
    replace(log.project / "status.html", status_page(log, problem).encode("utf-8", "replace"))


def status_text(log: Log, problem: str = "") -> str:
    """Returns the markdown of status.md."""
    state = log.state
    now = datetime.now(UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    lines = [f"# Status: {state.fields.get('project', '')}", f"_Last updated: {now}_", ""]
    lines += [f"> **tasks.json cannot be used: {problem}**", ""] if problem else []
    counts = count(state)
    told = [f"{counts[name]} {name.replace('_', ' ')}" for name in ("failed", "awaiting_review") if counts[name]]
    done = f"{counts['completed']}/{len(state.tasks)} tasks complete"
    lines += [f"**Progress: {' | '.join([done, *told])}**", ""]
    lines += [f"**Cost: ${money(state):.2f}**", ""] if money(state) else []
    lines += [f"Critical path: {' → '.join(schedule.critical_path(state).tasks)}", "", "---", ""]
    for name, task in state.tasks.items():
        lines += [*_task_lines(task, state.records[name], progress(log, name, state.records[name])), "---", ""]
    return "\n".join([*lines, f"## {footer(state)}", ""])


def footer(state: State) -> str:
    """Returns in a line what is next, or what is waited for."""
    waiting = schedule.blockers(state)
    if reviews := [name for name in waiting if state.records[name].status == "awaiting_review"]:
        return f"Paused: {', '.join(reviews)} awaits review; `holdfast queue approve`, `retry` or `skip` it"
    if waiting:
        return f"Paused: {', '.join(waiting)} failed; `holdfast queue retry` or `skip` it"
    if busy := [name for name, record in state.records.items() if record.status == "running"]:
        return f"Running: {', '.join(busy)}"
    if free := schedule.ready(state):
        return f"Next: {free[0]}: {state.tasks[free[0]].name}"
    if failed := [name for name, record in state.records.items() if record.status == "failed"]:
        stuck = schedule.find_blocked(state)
        behind = f"; {', '.join(stuck)} cannot start" if stuck else ""
        return f"Stopped: {', '.join(failed)} failed{behind}"
    if stuck := schedule.find_blocked(state):
        return f"Stopped: {', '.join(stuck)} cannot start"
    return "All tasks complete" if state.tasks else "No tasks yet: edit tasks.json"


def _task_lines(task: Task, record: Record, live: str) -> list[str]:
    config, result = task.config, record.result
    parts = [f"cli={config.cli}", f"model={config.model}", f"effort={config.effort}"]
    parts += [f"budget=${config.budget_usd:.2f}", f"turns<={config.max_turns}"]
    parts += [f"worktree={config.worktree}"] if config.worktree else []
    lines = [f"## {ICONS[record.status]} {task.id}: {task.name}", "", f"Config: `{' | '.join(parts)}`", ""]
    if task.depends_on:
        lines += [f"Depends on: {', '.join(one.id for one in task.depends_on)}", ""]
    if task.checkpoint != "auto":
        lines += [f"Checkpoint: **{task.checkpoint}**", ""]
    usage = _usage(result)
    lines += [line for line in (live, " | ".join(usage)) if line]
    if result.get("context_chars_original"):
        lines.append(f"Context: {result['context_chars_original']} → {result['context_chars_compressed']} chars")
        kinds = " ".join(f"{name}={result.get(f'chunks_{name}', 0)}" for name in ("kept", "compressed", "dropped"))
        lines.append(f"Relevance: {kinds}")
    lines += ["### Result", str(result["summary"])[:_RESULT], ""] if result.get("summary") else []
    lines += ["### Error", f"```\n{str(result['error'])[:_ERROR]}\n```", ""] if result.get("error") else []
    tries = [f"{retries_used(record)} retries"] if retries_used(record) else []
    tries += [f"{record.crashes} crashes (no retry used)"] if record.crashes else []
    return [*lines, f"_{', '.join(tries)}_" if tries else "", ""]


def _usage(result: Any) -> list[str]:
    tokens = int(result.get("input_tokens", 0)) + int(result.get("output_tokens", 0))
    cached = int(result.get("cache_read_tokens", 0))
    told = [f"${result['cost_usd']:.2f}"] if result.get("cost_usd") else []
    told += [f"{result['turns_used']} turns"] if result.get("turns_used") else []
    return told + ([f"{tokens:,} tokens" + (f" ({cached:,} cached)" if cached else "")] if tokens else [])


def progress(log: Log, name: str, record: Record) -> str:
    """Returns how far a running task is: seconds, tokens, bytes printed, silence; empty for another."""
    if record.status != "running":
        return ""
    beat = lease.read_json(lease.attempt_folder(log, name, record.attempt) / "beat.json") or {}
    told = [f"{time.time() - record.started:.0f} s"]
    told += [f"{beat['tokens']:,} tokens"] if beat.get("tokens") else []
    told += [f"{beat['output']:,} bytes printed"] if beat.get("output") else []
    late = time.time() - float(beat.get("at", record.started))
    return "Running for " + ", ".join(told + ([f"no sign of life for {late:.0f} s"] if late > lease.SILENCE else []))


def count(state: State) -> Counter[str]:
    """Returns how many tasks have each status."""
    return Counter(record.status for record in state.records.values())


def money(state: State) -> float:
    """Returns the USD of all attempts."""
    return sum(float(record.result.get("cost_usd") or 0) for record in state.records.values())


def describe(log: Log) -> dict[str, Any]:
    """Returns the whole state as JSON."""
    state = log.state
    tasks = [
        {
            "id": name,
            "name": task.name,
            "depends_on": [one.id for one in task.depends_on],
            "attempt": state.records[name].attempt,
            "crashes": state.records[name].crashes,
            "retries": retries_used(state.records[name]),
            "progress": progress(log, name, state.records[name]),
            **state.records[name].result,
            "status": state.records[name].status,
        }
        for name, task in state.tasks.items()
    ]
    path = schedule.critical_path(state)
    return {
        "project": state.fields.get("project", ""),
        "counts": dict(count(state)),
        "cost_usd": round(money(state), 6),
        "ready": schedule.ready(state),
        "waits_for_person": schedule.blockers(state),
        "blocked": schedule.find_blocked(state),
        "critical_path": list(path.tasks),
        "state": footer(state),
        "tasks": tasks,
    }


def summary_lines(log: Log) -> list[str]:
    """Returns the short answer to: how far is it?"""
    state = log.state
    spent = f", ${money(state):.2f}" if money(state) else ""
    lines = [f"{state.fields.get('project', '')}: {count(state)['completed']}/{len(state.tasks)} done{spent}"]
    ended = [(record.ended, name) for name, record in state.records.items() if record.ended]
    if ended:
        name = max(ended)[1]
        record = state.records[name]
        told = record.result.get("error") or record.result.get("summary") or ""
        lines.append(f"  Last: [{record.status}] {name}: {state.tasks[name].name}")
        lines += [f"        {' '.join(str(told).split())[:200]}"] if told else []
    for name, record in state.records.items():
        if record.status == "running":
            lines.append(f"  Now:  {name}: {state.tasks[name].name} ({progress(log, name, record)})")
    return [*lines, f"  {footer(state)}"]


def status_page(log: Log, problem: str = "") -> str:
    """Returns a page that renews itself every three seconds."""
    state, rows = log.state, []
    for name, task in state.tasks.items():
        record = state.records[name]
        told = record.result.get("error") or record.result.get("summary") or progress(log, name, record)
        cells = [f"{ICONS[record.status]} {record.status}", name, task.name, ", ".join(d.id for d in task.depends_on)]
        cells += [" | ".join(_usage(record.result)), str(told)[:_RESULT]]
        rows.append(f"<tr class={record.status}>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells))
    title = html.escape(str(state.fields.get("project", "")))
    done = f"{count(state)['completed']} of {len(state.tasks)} complete, ${money(state):.2f}"
    head = "".join(f"<th>{name}" for name in ("status", "id", "task", "waits for", "usage", "result"))
    warn = f"<p class=failed>{html.escape(problem)}" if problem else ""
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><meta http-equiv=refresh content=3><title>{title}</title>"
        f"<style>{_STYLE}</style><h1>{title}</h1>{warn}<p>{done}<p><b>{html.escape(footer(state))}</b>"
        f"<p>Critical path: {html.escape(' → '.join(schedule.critical_path(state).tasks))}"
        f"<table><thead><tr>{head}</thead><tbody>{''.join(rows)}</table></html>"
    )


_STYLE = (
    "body{font:16px/1.4 system-ui;max-width:75em;margin:2em auto;padding:0 1em;color-scheme:light dark}"
    "table{border-collapse:collapse;width:100%}td,th{text-align:left;vertical-align:top;padding:.4em .6em;"
    "border-bottom:1px solid #8884}td:last-child{white-space:pre-wrap;max-width:40em}.failed{color:#c33}"
)
