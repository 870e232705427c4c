"""Starts a run of the agent, or resumes one: puts its parts together by name."""

from __future__ import annotations

import secrets
import shutil
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from holdfast import __version__, config
from holdfast.agent.call_syntax import CallSyntax, open_syntax
from holdfast.agent.contexts import Context, open_context
from holdfast.agent.hooks import Hooks
from holdfast.agent.limits import Limits
from holdfast.agent.loop import Agent
from holdfast.agent.models import AgentModel
from holdfast.agent.profiles import Profile, open_profile
from holdfast.agent.sandbox import open_sandbox
from holdfast.agent.sandbox.base import Sandbox
from holdfast.agent.state import AgentRun
from holdfast.agent.tools import COMPACT
from holdfast.agent.trajectory import LOG, Trajectory, read_rows, replay
from holdfast.agent.workplace import Workplace, open_rights
from holdfast.errors import BadInput, BadOption
from holdfast.transcript.turn import Role, Turn
from holdfast.transcript.turn_rows import encode_turn


@dataclass(frozen=True)
class AgentOptions:
    """The settings of a run."""

    profile: Profile | str = "bash"
    calls: str = ""
    """The way of calling tools (a row of `call_syntax.SYNTAXES`); empty for the profile's."""
    sandbox: Sandbox | str = "auto"
    """`none` runs commands as the user."""
    limits: Limits = field(default_factory=Limits)
    trigger: int | None = None
    """Tokens of a history above which it is compacted."""
    network: bool = False
    """Commands may reach any host."""
    loopback: bool = False
    """Commands may start servers on 127.0.0.1 and reach them."""
    read: tuple[Path, ...] = ()
    """Further files and folders that they may read."""
    write: tuple[Path, ...] = ()
    """Further folders that they may change."""
    variables: tuple[str, ...] = ()
    """Further variables of the environment that they get."""
    compact_tool: bool = False
    """The model has a tool by which it compacts its history itself."""


def runs_folder() -> Path:
    """Returns the folder of the user's runs."""
    return config.home() / "runs"


def new_run_folder() -> Path:
    """Returns the name of a folder for a new run."""
    return runs_folder() / f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def find_run(name: Path) -> Path:
    """Returns the folder of a run: the path itself, or a name among the user's runs."""
    own = runs_folder() / name
    return own if len(name.parts) == 1 and not name.exists() and own.is_dir() else name


def list_runs(most: int = 20) -> list[tuple[str, str, str]]:
    """Returns name, task and status of the newest runs, the newest first."""
    folders = sorted((path.parent for path in runs_folder().glob(f"*/{LOG}")), reverse=True)[:most]
    listed = []
    for folder in folders:
        if rows := read_rows(folder):
            listed.append((folder.name, str(rows[0]["task"]), replay(rows).status))
    return listed


def run_agent(
    task: str,
    directory: Path | str,
    model: AgentModel,
    context: Context | str = "none",
    options: AgentOptions | None = None,
    hooks: Hooks | None = None,
    folder: Path | None = None,
) -> AgentRun:
    """Works on a task in a folder and returns how it ended; a `folder` that holds a run that did not end resumes it.

    Raises BadInput for a directory or a name that does not exist, Failed where no sandbox works, OSError if the log
    cannot be written.
    """
    options, hooks = options or AgentOptions(), hooks or Hooks()
    profile = open_profile(options.profile) if isinstance(options.profile, str) else options.profile
    syntax = open_syntax(options.calls or profile.calls, profile.tools)
    context = open_context(context, model, trigger=options.trigger) if isinstance(context, str) else context
    if options.compact_tool:
        profile = _add_compact_tool(profile, syntax, context)
        syntax = open_syntax(syntax.name, profile.tools)
    place = _open_place(directory, options)
    try:
        with Trajectory(folder or new_run_folder()) as trajectory:
            agent = Agent(model, profile, syntax, context, place, options.limits, trajectory, **vars(hooks))
            _open(agent, task)
            model.begin(agent.state.steps, agent.definitions, trajectory.folder / "memory")
            return agent.run()
    finally:
        shutil.rmtree(place.rights.scratch, ignore_errors=True)


def _add_compact_tool(profile: Profile, syntax: CallSyntax, context: Context) -> Profile:
    """Returns the profile with the tool. Raises BadOption where it could not be called, or would do nothing."""
    if context.spec == "none" or syntax.name == "fence":
        reason = "the context none compacts nothing" if context.spec == "none" else "a fence calls the first tool only"
        raise BadOption(
            f"the model cannot have the tool compact: {reason}; choose another context, or calls by api or xml"
        )
    return replace(profile, tools=(*profile.tools, COMPACT))


def _open_place(directory: Path | str, options: AgentOptions) -> Workplace:
    sandbox = open_sandbox(options.sandbox) if isinstance(options.sandbox, str) else options.sandbox
    rights = open_rights(
        directory, read=options.read, write=options.write, network=options.network, loopback=options.loopback
    )
    return Workplace(sandbox, rights, options.limits.command_seconds, options.variables)


def _open(agent: Agent, task: str) -> None:
    """Logs the beginning of a run, or that it is resumed. Raises BadInput if the log is of another kind of run."""
    trajectory, own = agent.trajectory, _settings(agent)
    if trajectory.about:
        for key in ("profile", "calls", "directory"):
            if trajectory.about[key] != own[key]:
                raise BadInput(
                    f"{trajectory.folder} holds a run with {key} {trajectory.about[key]}, not {own[key]}; resume it as "
                    "it was begun, or start a new one"
                )
        if agent.state.status not in ("", "submitted"):
            trajectory.record("resume", **own)
    else:
        if not task.strip():
            raise BadInput("the task is empty; say what is to be done")
        trajectory.record("run", id=trajectory.folder.name, task=task, **own)
    if not agent.state.turns:
        trajectory.record("turn", turn=encode_turn(Turn(Role.SYSTEM, _system(agent))))
    if len(agent.state.turns) == 1:
        words = agent.profile.first.replace("{directory}", own["directory"])
        first = words.replace("{task}", trajectory.about["task"])
        trajectory.record("turn", turn=encode_turn(Turn(Role.USER, first)))


def _system(agent: Agent) -> str:
    words = agent.profile.system.replace("{directory}", str(agent.place.rights.work))
    return f"{words}\n\n{agent.syntax.describe(agent.profile.tools)}" if agent.syntax.describe else words


def _settings(agent: Agent) -> dict[str, str]:
    return {
        "directory": str(agent.place.rights.work),
        "model": agent.model.name,
        "profile": agent.profile.name,
        "calls": agent.syntax.name,
        "context": agent.context.spec,
        "sandbox": agent.place.sandbox.name,
        "version": __version__,
    }
