"""Our agent as an agent of inspect's, and the agent's tools for inspect's own `react`.

Task(dataset, solver=holdfast_agent(context="tiered@4"), sandbox="holdfast")
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import anyio
from inspect_ai.agent import Agent, AgentState, agent
from inspect_ai.model import ModelOutput, get_model
from inspect_ai.tool import ToolDef, ToolError
from inspect_ai.tool import ToolParams as Schema
from inspect_ai.util import sandbox, store

from holdfast.agent import AgentOptions, AgentRun, Limits, run_agent
from holdfast.agent.profiles import open_profile
from holdfast.agent.tools import Tool, run_tool
from holdfast.agent.workplace import Workplace
from holdfast.bench.inspect.models import InspectModel
from holdfast.bench.inspect.sandbox import HoldfastSandbox
from holdfast.errors import BadInput
from holdfast.transcript.turn import Role


def workplace() -> Workplace:
    """Returns the place of the sample that runs. Raises BadInput if its sandbox is another one."""
    try:
        place: Workplace = sandbox().as_type(HoldfastSandbox).place
        return place
    except TypeError as error:
        raise BadInput(
            f"the agent works in the sandbox 'holdfast' of inspect's; name it in the task ({error})"
        ) from None


@agent(name="holdfast")
def holdfast_agent(
    context: str = "tiered",
    profile: str = "bash",
    calls: str = "",
    trigger: int | None = None,
    steps: int = 100,
    command_seconds: float = 120.0,
) -> Agent:
    """Returns our agent; the options are those of `holdfast agent`, the model is inspect's. Raises BadOption."""
    open_profile(profile)

    async def execute(state: AgentState) -> AgentState:
        """Works on the task that the state's messages are; what they hold beside text is not seen."""
        task = "\n\n".join(message.text for message in state.messages if message.role == "user")
        place, model = workplace(), InspectModel(get_model())
        rights = place.rights
        options = AgentOptions(
            profile,
            calls,
            place.sandbox,
            Limits(steps=steps, command_seconds=command_seconds),
            trigger,
            rights.network,
            rights.loopback,
            rights.read,
            rights.write,
        )
        folder = Path(tempfile.mkdtemp(prefix="holdfast-run-"))
        start = partial(run_agent, task, rights.work, model, context, options, folder=folder)
        try:
            run: AgentRun = await anyio.to_thread.run_sync(start)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        store().set("holdfast", _describe(run))
        state.messages = model.messages(run.turns)
        state.output = ModelOutput.from_content(model.name, run.text)
        return state

    return execute


def _describe(run: AgentRun) -> dict[str, Any]:
    """Returns what inspect does not count itself."""
    return {
        "status": run.status,
        "steps": run.steps,
        "compactions": run.compactions,
        "compactor": vars(run.account.compactor),
        "peak": run.account.peak,
        "answers": sum(turn.role is Role.ASSISTANT for turn in run.turns),
    }


def holdfast_tools(profile: str = "files") -> list[ToolDef]:
    """Returns the tools of a profile for any agent of inspect's; they work in the sandbox 'holdfast'."""
    return [_define(tool) for tool in open_profile(profile).tools]


def _define(tool: Tool) -> ToolDef:
    async def execute(**kwargs: Any) -> str:
        arguments: Mapping[str, Any] = kwargs
        seen = await anyio.to_thread.run_sync(run_tool, tool, arguments, workplace())
        if seen.is_error:
            raise ToolError(seen.text)
        return seen.text

    return ToolDef(execute, tool.name, tool.description, Schema(**tool.schema()))
