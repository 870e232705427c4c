"""The programs that do tasks: how each is called, given its prompt, and read. A row each; a command line is one, too.

No prompt is an argument: it comes from standard input, or from a file that a command line names.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import holdfast
from holdfast.errors import BadInput, BadOption
from holdfast.queue.tasks import Config, Task

SUMMARY = 20_000
"""Characters of a result that are recorded; all of it stands in the attempt's `out`."""
_CLAUDE_MODEL, _PLACES = "sonnet", ("prompt_file", "dir", "model", "task", "messages")
_PLACE = re.compile("{(?:" + "|".join(_PLACES) + ")}")


@dataclass(frozen=True)
class Outcome:
    """The result of an attempt, as its program told it."""

    ok: bool
    summary: str = ""
    error: str = ""
    cost_usd: float = 0.0
    turns_used: int = 0
    input_tokens: int = 0
    """All that was read, with what came from a cache."""
    output_tokens: int = 0
    cache_read_tokens: int = 0


@dataclass(frozen=True)
class Job:
    """Paths that a command line may name."""

    prompt: Path
    folder: Path
    messages: Path


@dataclass(frozen=True)
class Executor:
    """A program that does tasks."""

    name: str
    program: str
    command: Callable[[Task, Job], list[str]]
    read: Callable[[str, int], Outcome]
    """Returns the outcome from all that was printed and the exit code."""
    live: bool = False
    """True if it takes messages as lines of standard input while it works."""


def find_executor(config: Config) -> Executor:
    """Returns the executor of a task. Raises BadOption for a command line that cannot be read."""
    if (known := EXECUTORS.get(config.cli.lower())) is not None:
        return known
    try:
        words = shlex.split(config.cli)
    except ValueError as error:
        raise BadOption(f"cli {config.cli!r} is no command line: {error}") from error
    if not words:
        raise BadOption(f"cli is empty; name one of {', '.join(EXECUTORS)}, or a command line")
    if any("{prompt}" in word for word in words):
        raise BadOption(
            "a prompt is no argument: too long a one cannot be started; let the command read standard input, or write "
            "{prompt_file}"
        )
    return Executor("command", words[0], lambda task, job: _fill(words, task, job), _read_any)


def check_programs(tasks: Iterable[Task]) -> None:
    """Raises BadInput, with the tasks that need it, for a program that is not installed."""
    missing: dict[str, list[str]] = {}
    for task in tasks:
        program = find_executor(task.config).program
        if shutil.which(program) is None:
            missing.setdefault(program, []).append(task.id)
    if missing:
        told = "; ".join(f"{program} (for {', '.join(names[:5])})" for program, names in missing.items())
        raise BadInput(f"not installed, or not on PATH: {told}; install it, or give these tasks another cli")


def module_command(name: str) -> list[str]:
    """Returns the command that runs a module of this package with this Python."""
    package = str(Path(holdfast.__file__).parents[1])
    code = f"import sys; sys.path.insert(0, {package!r}); import runpy; runpy.run_module({name!r}, run_name='__main__')"
    return [sys.executable, "-c", code]


def live_line(text: str) -> bytes:
    """Returns a message as one line of an executor's standard input."""
    content = [{"type": "text", "text": text}]
    return json.dumps({"type": "user", "message": {"role": "user", "content": content}}).encode() + b"\n"


def _claude(task: Task, job: Job) -> list[str]:
    config = task.config
    line = ["claude", "-p", "--input-format", "stream-json", "--output-format", "stream-json", "--verbose"]
    line += ["--model", config.model, "--max-budget-usd", f"{config.budget_usd:g}"]
    line += ["--max-turns", str(config.max_turns), "--effort", config.effort]
    modes = {"dangerously_skip": ["--dangerously-skip-permissions"], "auto": ["--permission-mode", "auto"]}
    return line + modes.get(config.permission_mode, [])


def _codex(task: Task, job: Job) -> list[str]:
    config = task.config
    modes = {
        "dangerously_skip": ["--dangerously-bypass-approvals-and-sandbox"],
        "auto": ["--sandbox", "workspace-write"],
    }
    line = ["codex", "exec", "--json", "--skip-git-repo-check", *modes.get(config.permission_mode, [])]
    return [*line, *_model(config, "--model"), "-"]


def _opencode(task: Task, job: Job) -> list[str]:
    free = ["--auto"] if task.config.permission_mode != "default" else []
    return ["opencode", "run", "--format", "json", *free, *_model(task.config, "--model")]


def _holdfast(task: Task, job: Job) -> list[str]:
    config = task.config
    settings = [str(job.messages.parent), str(job.folder), config.model, config.context, config.permission_mode]
    line = [*module_command("holdfast.queue.own_agent"), *settings]
    return [*line, str(config.max_turns), str(config.budget_usd)]


def _model(config: Config, option: str) -> list[str]:
    """Returns the option for a model, unless it is the default, which is Claude's."""
    return [] if config.model == _CLAUDE_MODEL else [option, config.model]


def _fill(words: list[str], task: Task, job: Job) -> list[str]:
    values = (str(job.prompt), str(job.folder), task.config.model, task.id, str(job.messages))
    named = {"{" + place + "}": value for place, value in zip(_PLACES, values, strict=True)}
    return [_PLACE.sub(lambda match: named[match[0]], word) for word in words]


def _read_claude(printed: str, code: int) -> Outcome:
    told = [event for event in _events(printed) if event.get("type") == "result"]
    if not told:
        return _silent("claude", printed, code)
    last = told[-1]
    text = last.get("result")
    text = text if isinstance(text, str) else ""
    subtype = str(last.get("subtype") or "success")
    ok = code == 0 and not last.get("is_error") and subtype == "success"
    errors = "; ".join(map(str, last.get("errors") or [])) or (subtype if subtype != "success" else text)
    usage = last.get("usage") or {}
    read = int(usage.get("cache_read_input_tokens") or 0)
    fresh = int(usage.get("input_tokens") or 0) + int(usage.get("cache_creation_input_tokens") or 0)
    return Outcome(
        ok,
        text[:SUMMARY],
        "" if ok else errors[:SUMMARY],
        float(last.get("total_cost_usd") or 0.0),
        int(last.get("num_turns") or 0),
        fresh + read,
        int(usage.get("output_tokens") or 0),
        read,
    )


def _read_codex(printed: str, code: int) -> Outcome:
    events = list(_events(printed))
    texts = [e["item"].get("text", "") for e in events if e.get("type") == "item.completed" and _is_words(e)]
    failed = [e.get("error", e) for e in events if e.get("type") in ("turn.failed", "error")]
    ended = [e.get("usage") or {} for e in events if e.get("type") == "turn.completed"]
    if not ended and not failed:
        return _silent("codex", printed, code)
    ok = code == 0 and bool(ended)
    error = "" if ok else "; ".join(str(one.get("message", one)) for one in failed) or f"codex exited with {code}"
    sums = [sum(int(u.get(n) or 0) for u in ended) for n in ("input_tokens", "output_tokens", "cached_input_tokens")]
    return Outcome(ok, (texts[-1] if texts else "")[:SUMMARY], error[:SUMMARY], 0.0, len(ended), *sums)


def _is_words(event: dict[str, Any]) -> bool:
    return event["item"].get("type", event["item"].get("item_type")) in ("agent_message", "assistant_message")


def _read_opencode(printed: str, code: int) -> Outcome:
    events = list(_events(printed))
    parts = [e["part"] for e in events if e.get("type") in ("text", "step_finish") and isinstance(e.get("part"), dict)]
    texts = [part["text"] for part in parts if part.get("text")]
    steps = [part for part in parts if "tokens" in part]
    failed = [e.get("error") for e in events if e.get("type") == "error"]
    if not steps and not failed:
        return _silent("opencode", printed, code)
    ok = code == 0 and not failed
    tokens = [step["tokens"] for step in steps]
    read = sum(int(one.get("cache", {}).get("read", 0)) for one in tokens)
    written = sum(int(one.get("cache", {}).get("write", 0)) for one in tokens)
    return Outcome(
        ok,
        (texts[-1] if texts else "")[:SUMMARY],
        "" if ok else (json.dumps(failed) if failed else f"opencode exited with {code}")[:SUMMARY],
        sum(float(step.get("cost") or 0.0) for step in steps),
        len(steps),
        sum(int(one.get("input", 0)) for one in tokens) + read + written,
        sum(int(one.get("output", 0)) for one in tokens),
        read,
    )


def _read_any(printed: str, code: int) -> Outcome:
    """Reads Bearing's object with `result`, if the last line or all of it is one, else plain words."""
    text = printed.strip()
    for candidate in (text, text.rsplit("\n", 1)[-1]):
        value = _object(candidate)
        if value is not None and ("result" in value or "type" in value):
            return _read_claude(json.dumps({"type": "result", **value, "subtype": value.get("subtype")}), code)
    if code:
        return Outcome(False, text[-2000:], f"exit code {code}: {text[-500:]}" if text else f"exit code {code}")
    return Outcome(True, text[-SUMMARY:] or "(no output)")


def _silent(program: str, printed: str, code: int) -> Outcome:
    told = printed.strip()[-2000:]
    return Outcome(False, told, f"{program} ended without a result (exit code {code}){': ' + told if told else ''}")


def _events(printed: str) -> Iterator[dict[str, Any]]:
    for line in printed.splitlines():
        if (value := _object(line)) is not None:
            yield value


def _object(text: str) -> dict[str, Any] | None:
    if not text.lstrip().startswith("{"):
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


EXECUTORS = {
    "claude": Executor("claude", "claude", _claude, _read_claude, live=True),
    "codex": Executor("codex", "codex", _codex, _read_codex),
    "opencode": Executor("opencode", "opencode", _opencode, _read_opencode),
    "holdfast": Executor("holdfast", sys.executable, _holdfast, _read_claude),
}
