"""The eight tasks of `holdfast bench run` as a task of inspect's: a sample a task, judged by the same hidden checks."""

from __future__ import annotations

from pathlib import Path

import anyio
from inspect_ai import Task, task
from inspect_ai.agent import react
from inspect_ai.dataset import Sample
from inspect_ai.scorer import Score, Scorer, Target, mean, scorer, stderr
from inspect_ai.solver import TaskState
from inspect_ai.util import SandboxEnvironmentSpec

from holdfast.adapters.compactor import Compactor
from holdfast.adapters.inspect_ai import HoldfastCompaction
from holdfast.agent.contexts import RATIO, parse_spec
from holdfast.agent.profiles import open_profile
from holdfast.bench.inspect.sandbox import HoldfastSandboxConfig
from holdfast.bench.inspect.solver import holdfast_agent, holdfast_tools, workplace
from holdfast.bench.tasks.catalog import Task as BenchTask
from holdfast.bench.tasks.catalog import missing_needs, read_tasks
from holdfast.bench.tasks.conditions import TRIGGER
from holdfast.bench.tasks.script import prompt_of
from holdfast.bench.tasks.workspace import accept, start_files
from holdfast.errors import BadOption
from holdfast.text.rewrite import TextPlan

AGENTS = ("holdfast", "react")


@task
def eight_tasks(
    context: str = "none", agent: str = "holdfast", only: str = "", trigger: int = TRIGGER, box: str = "auto"
) -> Task:
    """Returns the tasks, each built on the reference solutions of those before it.

    `agent` is ours or inspect's `react`, `only` names tasks ("1 2"), `box` is a sandbox of ours. Raises BadOption for
    an unknown agent or context, BadInput for an unknown task.
    """
    if agent not in AGENTS:
        raise BadOption(f"agent must be {' or '.join(AGENTS)}, got {agent!r}")
    wanted = read_tasks(tuple(only.split()))
    solver = holdfast_agent(context, "files", trigger=trigger) if agent == "holdfast" else _react(context, trigger)
    config = HoldfastSandboxConfig(sandbox=box, loopback=True)  # the program is asked over 127.0.0.1
    return Task(
        [_sample(one) for one in wanted],
        solver=solver,
        scorer=hidden_checks(),
        sandbox=SandboxEnvironmentSpec("holdfast", config),
        message_limit=400,
    )


def _react(context: str, trigger: int) -> object:
    """Returns inspect's agent with our tools, and our compaction where a context is named."""
    spec, profile = parse_spec(context), open_profile("files")
    if spec.kind not in ("none", "text"):
        raise BadOption(f"react compacts as text; give {context} to the model as -M context={context}")
    plan = TextPlan(spec.method, ratio=spec.ratio or RATIO, least_recent=1) if spec.kind == "text" else None
    compaction = HoldfastCompaction(Compactor(plan), threshold=trigger) if plan else None
    return react(
        prompt=profile.system.replace("{directory}", "this folder"),
        tools=holdfast_tools("files"),
        submit=False,
        compaction=compaction,
    )


def _sample(one: BenchTask) -> Sample:
    files = {name: str(path) for name, path in start_files(missing_needs((one,))).items()}
    return Sample(
        id=one.id, input=prompt_of((one,)), target="every check", files=files, metadata={"needs": list(one.needs)}
    )


@scorer(metrics=[mean(), stderr()])
def hidden_checks() -> Scorer:
    """Returns the scorer: 1 if the program passes every hidden check of its task."""

    async def score(state: TaskState, target: Target) -> Score:
        """Runs the checks on a copy of what was built."""
        place = workplace()
        found = await anyio.to_thread.run_sync(accept, *_job(str(state.sample_id), place.rights.work), place.sandbox)
        return Score(
            value=float(found.complete),
            answer=f"{found.passed}/{found.total}",
            explanation=found.output[-2000:],
            metadata={"passed": found.passed, "checks": found.total},
        )

    return score


def _job(name: str, work: Path) -> tuple[BenchTask, Path]:
    (one,) = read_tasks((name,))
    return one, work
