"""The start of a queue: its first files, and a session with an agent that plans it with a person."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from holdfast.errors import BadInput, BadOption
from holdfast.queue.events import Log, apply
from holdfast.queue.plan_file import TASKS, merge
from holdfast.queue.status import write_pages
from holdfast.queue.tasks import read_plan, write_plan
from holdfast.storage.files import create, replace

_PLANNERS = {
    "claude": ("claude", "--model", "{model}", "{prompt}"),
    "codex": ("codex", "--model", "{model}", "{prompt}"),
    "opencode": ("opencode", "--model", "{model}", "--prompt", "{prompt}"),
    "holdfast": ("holdfast", "agent", "{prompt}", "--model", "{model}"),
}
_MODELS = {"claude": "opus"}
PLANNERS = tuple(_PLANNERS)
INSTRUCTIONS = """\
You plan work for `holdfast queue`, which runs tasks by coding agents. Help the user decide what to build, break it into
tasks, and write them to tasks.json in this folder.

Each task is done by an agent in a context of its own, which sees the task's prompt and short results of the tasks that
it depends on. Independent tasks run at the same time: let a task depend on another only if it needs its result.

    {"project": "name", "description": "...", "context_format": "structured", "tasks": [{
      "id": "task-001", "name": "Short name", "prompt": "All that the agent needs to know.",
      "config": {"cli": "claude", "model": "sonnet", "effort": "high", "budget_usd": 3.0, "max_turns": 20,
                 "permission_mode": "auto", "worktree": null, "max_seconds": 3600, "stall_seconds": 600},
      "depends_on": [], "checkpoint": "auto", "on_failure": "retry_once",
      "relevant_files": ["src/a.js"], "ignore_patterns": ["node_modules"]}]}

- cli: claude, codex, opencode, holdfast, or a command line that reads the prompt from standard input or {prompt_file}.
- depends_on: ids, or {"id": ..., "kind": "needs" | "completed" | "after", "context": "auto" | "raw" | "compact" |
  "retrieve" | "none"}: whether it must have succeeded, and how much of its result is given.
- checkpoint: auto, notify (goes on, and says so) or pause (everything waits until the user approves).
- on_failure: retry_once, pause (everything waits) or skip (what depends on it runs all the same).
- context_format: structured, prose, embedding, embedding+llm.
- worktree: a name, and the task works on a branch of its own that is merged afterwards.

Keep a task to one change. Always fill relevant_files: it saves the agent most of its reading. Leave `result` and
`revision` as they are: the queue writes them. You may edit tasks.json while tasks run.

First list the folder and read CLAUDE.md or AGENTS.md if there is one; read status.md and tasks.json for what was done.
Then ask what the user wants to build, push back on complexity, and write tasks.json when you agree. The user runs

    holdfast queue validate .     holdfast queue run .      holdfast queue summary .    holdfast queue watch .
    holdfast queue approve ID     holdfast queue retry ID holdfast queue skip ID    holdfast queue message ID "…"
"""


def init(project: Path) -> list[str]:
    """Writes what a queue begins with, and returns the names of what was new; what is there stays.

    Raises BadInput for a folder that is none, or a `tasks.json` that cannot be read.
    """
    if not project.is_dir():
        raise BadInput(f"{project} is no folder; create it first")
    log, name = Log(project), project.resolve().name
    task = {"id": "task-001", "name": "Example task", "prompt": "Say in one line what this project is."}
    fields = {"project": name, "description": "Describe your goals here", "context_format": "structured"}
    notes = f"# Plan: {name}\n\nGoals, priorities, decisions: your space, which no program reads.\n"
    new = []
    first = write_plan(fields, None, [{**task, "checkpoint": "pause"}])
    for file, data in ((TASKS, first), ("plan.md", notes.encode())):
        if not (project / file).exists():
            create(project / file, data)
            new.append(file)
    if (
        not log.state.count
    ):  # drawn as it will be; the log begins with the first run, so that the example leaves no trace
        plan = read_plan((project / TASKS).read_bytes(), str(project / TASKS))
        if event := merge(log.state, None, plan, []):
            apply(log.state, event)
    write_pages(log)
    return [*new, "status.md", "status.html"]


def plan_with(project: Path, cli: str, model: str = "", goal: str = "") -> int:
    """Opens a session of an agent that plans the queue, and returns its exit code.

    Raises BadOption for an unknown agent or where a model or a goal must be named, BadInput for one not installed.
    """
    if cli not in _PLANNERS:
        raise BadOption(f"a planner is one of {', '.join(PLANNERS)}, got {cli!r}")
    line = _PLANNERS[cli]
    model = model or _MODELS.get(cli, "")
    if not model:
        raise BadOption(f"name the model that plans: --model, as {cli} calls it")
    if cli == "holdfast" and not goal:
        raise BadOption("our own agent asks nothing back: say with --goal what is to be built")
    if shutil.which(line[0]) is None:
        raise BadInput(f"{line[0]} is not on PATH; install it, or plan with another --cli")
    log = Log(project)
    log.make_folder()
    instructions = log.folder / "planner.md"
    replace(instructions, INSTRUCTIONS.encode())
    then = f"plan this: {goal}" if goal else "ask what I want to work on."
    asked = f"Read {instructions} for your planning instructions, then {then}"
    filled = [word.replace("{model}", model).replace("{prompt}", asked) for word in line]
    return subprocess.run(filled, cwd=project, check=False).returncode
