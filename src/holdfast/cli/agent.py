"""`holdfast agent "TASK"` works on a task; `holdfast agent show RUN` shows a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.cli import console
from holdfast.cli.help import FullSummaries
from holdfast.cli.options import AsJson, Config, Device, Dtype

if TYPE_CHECKING:
    from holdfast.agent.models import AgentModel
    from holdfast.agent.state import AgentRun, RunState
    from holdfast.transcript.turn import ToolCall

FAILED = 1
"""Exit code of a run that ended without handing its work in."""


class TaskFirst(FullSummaries):
    """A group whose first word may be the task itself."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Reads arguments that begin with no command as those of `run`."""
        known = not args or args[0] in self.commands or args[0] == "--help"
        return super().parse_args(ctx, args if known else ["run", *args])


app = typer.Typer(cls=TaskFirst, help="Works on a task in a folder, with compaction inside.", no_args_is_help=True)


@app.command()
def run(
    task: Annotated[str, typer.Argument(help="What is to be done; empty with --run to go on.")] = "",
    directory: Annotated[Path, typer.Option("--dir", help="The folder to work in.")] = Path(),
    model: Annotated[
        str,
        typer.Option(help="openai:NAME, anthropic:NAME, or a model of this process.", show_default="[routes.agent]"),
    ] = "",
    context: Annotated[
        str, typer.Option(help="How the history is compacted: none, METHOD or METHOD@RATIO (holdfast methods).")
    ] = "tiered",
    profile: Annotated[str, typer.Option(help="bash, files, or editor.")] = "bash",
    calls: Annotated[
        str, typer.Option(help="How tools are called: api, fence, or xml.", show_default="the profile's")
    ] = "",
    trigger: Annotated[
        int | None, typer.Option(help="Tokens above which the history is compacted.", show_default="12000")
    ] = None,
    confirm: Annotated[bool, typer.Option("--confirm/--auto", help="Ask before each call.")] = False,
    compact_tool: Annotated[
        bool, typer.Option("--compact-tool", help="Give the model a tool by which it compacts its history itself.")
    ] = False,
    steps: Annotated[int, typer.Option(help="Most calls of the model; 0 for no limit.")] = 100,
    money: Annotated[float, typer.Option(help="Most USD; 0 for no limit.")] = 3.0,
    seconds: Annotated[float, typer.Option(help="Most seconds; 0 for no limit.")] = 0.0,
    command_seconds: Annotated[float, typer.Option(help="Most seconds of a command.")] = 120.0,
    answer_tokens: Annotated[int, typer.Option(help="Most tokens of an answer.")] = 4096,
    sandbox: Annotated[str, typer.Option(help="auto, sandlock, or bubblewrap.")] = "auto",
    no_sandbox: Annotated[bool, typer.Option("--no-sandbox", help="Run commands as you, without a sandbox.")] = False,
    network: Annotated[bool, typer.Option("--network", help="Let commands reach any host.")] = False,
    loopback: Annotated[bool, typer.Option("--loopback", help="Let commands use servers on 127.0.0.1.")] = False,
    read: Annotated[list[Path], typer.Option(help="Another folder that commands may read; may be repeated.")] = [],  # noqa: B006
    write: Annotated[list[Path], typer.Option(help="Another folder that commands may change.")] = [],  # noqa: B006
    env: Annotated[list[str], typer.Option(help="A variable of the environment that commands get.")] = [],  # noqa: B006
    folder: Annotated[
        Path | None, typer.Option("--run", help="The run's folder; one that holds a run goes on.", show_default="new")
    ] = None,
    base_url: Annotated[str, typer.Option(help="Address of the endpoint, e.g. of `holdfast serve`.")] = "",
    key_env: Annotated[str, typer.Option(help="Variable that holds the endpoint's key.")] = "",
    config: Config = None,
    dtype: Dtype = "auto",
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Works on a task until it is handed in or a limit is reached; a run that stopped goes on with --run."""
    from holdfast.agent import AgentOptions, Hooks, Limits, run_agent
    from holdfast.agent.open_model import ModelOptions
    from holdfast.agent.start import find_run, new_run_folder

    limits = Limits(steps, money, seconds, answer_tokens=answer_tokens, command_seconds=command_seconds)
    options = AgentOptions(
        profile,
        calls,
        "none" if no_sandbox else sandbox,
        limits,
        trigger,
        network,
        loopback,
        tuple(path.resolve() for path in read),
        tuple(path.resolve() for path in write),
        tuple(env),
        compact_tool,
    )
    place = new_run_folder() if folder is None else find_run(folder)
    opened = _open_model(model, ModelOptions(base_url, key_env, config, dtype, device))
    keeps = _open_context(context, opened, trigger, config)
    console.say(f"run {place.name} ({place})")
    hooks = Hooks(_confirm if confirm else None, _report)
    done = run_agent(task, directory, opened, keeps, options, hooks, place)
    _print_end(done, as_json)


def _open_model(name: str, options: Any) -> AgentModel:
    """Opens a model; one of this process with progress."""
    from holdfast.agent.open_model import is_local, open_model

    if not is_local(name):
        return open_model(name, options)
    from holdfast.agent.local import LocalModel

    return LocalModel(console.engine(name, options.dtype, options.device))


def _open_context(spec: str, model: AgentModel, trigger: int | None, config: Path | None) -> Any:
    """Opens a context, with the configured compactor as the model that writes summaries."""
    from holdfast.agent.contexts import open_context
    from holdfast.agent.open_model import find_prices
    from holdfast.engine.routing import Task, chat_for_task

    chat = chat_for_task(Task.COMPACTOR, config)
    prices = find_prices(chat.route) if chat else None
    return open_context(spec, model, trigger=trigger, chat=chat, prices=prices)


def _report(state: RunState, what: str) -> None:
    """Writes the live line."""
    compactions = f"{state.compactions} compaction{'' if state.compactions == 1 else 's'}"
    console.ticker.update(
        f"step {state.steps + 1}, {state.tokens:,} tokens, {compactions}, {state.account.money:.3f} USD: {what}"
    )


def _confirm(call: ToolCall) -> str:
    """Asks the user for one call; returns the words against it. Raises UserStop."""
    from holdfast.agent.control import UserStop

    console.ticker.stop()
    console.say(f"{call.name} {call.arguments}")
    words: str = typer.prompt(
        "Enter runs it, q stops, anything else is said against it", "", show_default=False, err=True
    )
    console.ticker.start("working")
    if words.strip() == "q":
        raise UserStop("stopped by the user; the run can be resumed")
    return words.strip()


def _print_end(done: AgentRun, as_json: bool) -> None:
    account = done.account
    if as_json:
        plain = {"status": done.status, "text": done.text, "steps": done.steps, "compactions": done.compactions}
        console.emit({**plain, "account": account.row(), "folder": str(done.folder)})
    else:
        usage = account.usage
        console.line(done.text.rstrip(), f"{done.status}: ", "bold")
        console.line(
            f"{done.steps} steps, {usage.prompt:,} tokens in ({usage.cached:,} from the cache), {usage.output:,} out, "
            f"{done.compactions} compactions, {account.money:.4f} USD, {account.seconds:.0f} s"
        )
        console.say(f"holdfast agent show {done.folder.name}")
    if done.status != "submitted":
        raise typer.Exit(FAILED)


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="A run, by name or folder; without one, the newest are listed.")] = "",
    page: Annotated[
        Path | None, typer.Option("--html", help="Write a page of what the model saw at each step.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Shows a run: what was said, done and spent at each step."""
    from holdfast import outputs
    from holdfast.agent.replay import replay_page
    from holdfast.agent.start import find_run, list_runs
    from holdfast.agent.trajectory import read_rows

    if not name:
        for run_name, task, status in list_runs():
            console.line(f"{run_name}  {status or 'not ended'}  {task[:60]}")
        return
    if page is not None:
        outputs.check_output(page)
    rows = read_rows(find_run(Path(name)))
    if page is not None:
        outputs.write_output(page, replay_page(rows).encode())
        console.say(f"wrote {page}")
    elif as_json:
        console.emit(rows)
    else:
        _print_rows(rows)


def _print_rows(rows: Any) -> None:
    about = rows[0]
    console.line(f"{about['task']}", "task: ", "bold")
    console.line(", ".join(f"{key} {about[key]}" for key in ("model", "context", "profile", "sandbox", "directory")))
    step = 0
    for row in rows[1:]:
        step += row["kind"] == "answer"
        if row["kind"] == "answer":
            used = row["usage"]
            prompt = used["input"] + used["cached"] + used["written"] + used["written_1h"]
            console.line(
                f"{prompt:,} tokens in, {used['output']:,} out, {row['seconds']:.1f} s", f"step {step}: ", "bold"
            )
            console.line(row["turn"].get("text", ""))
            for _, called, arguments in row["turn"].get("calls", ()):
                console.line(f"  {called} {arguments}")
        elif row["kind"] == "observation":
            console.line("  " + row["turn"].get("text", "")[:600].replace("\n", "\n  "))
        elif row["kind"] == "compaction":
            console.line(f"{row['before']:,} to {row['after']:,} tokens", f"compacted by {row['method']}: ", "bold")
        elif row["kind"] == "end":
            console.line(row["text"], f"{row['status']}: ", "bold")
