"""Runs the tasks under conditions: a row for each condition, kind of session and trial, written when it is known.

A run that was killed goes on: finished rows are kept, and the session under way is resumed from its own log.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

import holdfast
from holdfast.agent import AgentOptions, AgentRun, Limits, ScriptedModel, run_agent
from holdfast.agent.models import AgentModel
from holdfast.agent.sandbox import open_sandbox
from holdfast.agent.sandbox.base import Sandbox
from holdfast.agent.trajectory import read_rows
from holdfast.bench.tasks.catalog import Task, missing_needs, read_tasks
from holdfast.bench.tasks.conditions import PRICES, TRIGGER, TaskCondition, read_condition
from holdfast.bench.tasks.judge import Opinion, agreement_with_checks, judge_task
from holdfast.bench.tasks.script import make_script, prompt_of
from holdfast.bench.tasks.workspace import accept, reset
from holdfast.cost.cache import Rules
from holdfast.cost.usage import Usage, sum_usage
from holdfast.engine.chat import Chat
from holdfast.errors import BadOption
from holdfast.progress import Progress, quiet
from holdfast.storage.json_lines import append_line, has_line, read_lines

SESSIONS = ("one", "fresh")
SCRIPTED = "scripted"
OpenModel = Callable[[], AgentModel]


class TaskRow(BaseModel):
    """One program, built under one condition."""

    model_config = ConfigDict(extra="allow", frozen=True, use_attribute_docstrings=True)

    version: str
    created: str
    agent: str
    """The model that answered, or `scripted`."""
    condition: str
    context: str
    trigger: int
    """Tokens of a history at which it was compacted."""
    session: str
    """`one` for all tasks in a session, `fresh` for a session a task."""
    trial: int
    passed: dict[str, int]
    """Checks that the program passes, by task."""
    checks: dict[str, int]
    statuses: list[str]
    """The end of each session."""
    steps: int
    compactions: int
    usage: dict[str, int]
    compactor: dict[str, int]
    money: float
    """USD, the compactor's own tokens, cache writes and reads included."""
    seconds: float
    peak: int
    """Tokens of the longest prompt."""
    rereads: int
    """Reads of a file that was read or written before, in any session of the row."""
    judged: dict[str, dict[str, float]] = {}
    """A judge's mean scores by task, where one was asked."""
    judge_agreement: float | None = None
    """The share of tasks on which the judge and the checks say the same."""
    prompts: list[int]
    """Tokens of the prompt of each call, session after session."""

    @property
    def key(self) -> tuple[str, str, int, str, int]:
        return self.agent, self.condition, self.trigger, self.session, self.trial


@dataclass(frozen=True)
class TaskRun:
    """The programs that are built."""

    tasks: tuple[Task, ...]
    conditions: tuple[TaskCondition, ...]
    sessions: tuple[str, ...] = SESSIONS
    trials: int = 1
    agent: str = SCRIPTED
    sandbox: str = "auto"
    trigger: int = TRIGGER
    judge: Chat | None = None
    """A model whose opinion stands beside the checks."""

    def __post_init__(self) -> None:
        if unknown := [name for name in self.sessions if name not in SESSIONS]:
            raise BadOption(f"a session is {' or '.join(SESSIONS)}, got {unknown[0]!r}")
        if self.trials < 1:
            raise BadOption(f"trials must be at least 1, got {self.trials}")


def make_run(tasks: Sequence[str], conditions: Sequence[str], **others: Any) -> TaskRun:
    """Returns a run of tasks and conditions by name. Raises BadInput or BadOption for unknown ones."""
    return TaskRun(read_tasks(tuple(tasks)), tuple(map(read_condition, conditions)), **others)


def measure(run: TaskRun, folder: Path, open_model: OpenModel | None = None, progress: Progress = quiet) -> Path:
    """Builds the missing programs under `folder`, and returns its file of rows; `open_model` gives the agent's model.

    Raises Failed where no sandbox works, BadOption for a context that does not go with the model.
    """
    folder.mkdir(parents=True, exist_ok=True)
    out, sandbox = folder / "rows.jsonl", open_sandbox(run.sandbox)
    done = {row.key for row in read_lines(out, TaskRow, print)} if has_line(out) else set()
    jobs = [(c, s, t) for t in range(run.trials) for c in run.conditions for s in run.sessions]
    for number, (condition, session, trial) in enumerate(jobs):
        progress("session", number, len(jobs), f"{condition.name}, {session}, trial {trial}")
        if (run.agent, condition.name, run.trigger, session, trial) not in done:
            name = f"{run.agent}-{condition.name}-{run.trigger}-{session}-{trial}"
            place = folder / "runs" / re.sub(r"[^\w.+@=-]", "_", name)
            append_line(out, _build(run, condition, session, trial, place, sandbox, open_model))
    progress("session", len(jobs), len(jobs), "")
    return out


def _build(
    run: TaskRun,
    condition: TaskCondition,
    session: str,
    trial: int,
    place: Path,
    sandbox: Sandbox,
    open_model: OpenModel | None,
) -> TaskRow:
    began, work = time.perf_counter(), place / "work"
    if not (place / "logs").exists():
        reset(work, missing_needs(run.tasks))
    parts = [run.tasks] if session == "one" else [(task,) for task in run.tasks]
    ended: list[AgentRun] = []
    for number, tasks in enumerate(parts, 1):
        model = open_model() if open_model else _open_scripted(tasks, condition)
        options = AgentOptions("files", sandbox=sandbox, limits=Limits(steps=60 * len(tasks)), network=True)
        log = place / "logs" / f"session-{number}"
        ended.append(run_agent(prompt_of(tasks), work, model, condition.open(model, run.trigger), options, folder=log))
    found = {task.id: accept(task, work, sandbox) for task in run.tasks}
    opinions = [_ask_judge(run.judge, task, work) for task in run.tasks] if run.judge else []
    solved = {name: one.complete for name, one in found.items()}
    shutil.rmtree(work)  # the log of every session holds what was written
    return TaskRow(
        version=holdfast.__version__,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        agent=run.agent,
        condition=condition.name,
        context=condition.context,
        trigger=run.trigger,
        session=session,
        trial=trial,
        passed={name: one.passed for name, one in found.items()},
        checks={name: one.total for name, one in found.items()},
        judged={one.task: one.scores for one in opinions},
        judge_agreement=agreement_with_checks(opinions, solved),
        statuses=[one.status for one in ended],
        seconds=round(time.perf_counter() - began, 3),
        **_account(ended),
    )


def _ask_judge(chat: Chat, task: Task, work: Path) -> Opinion:
    """Asks for an opinion of the files that the task names, whole, as far as they were written."""
    files = {path: (work / path).read_text("utf-8", "replace") for path in task.solution if (work / path).is_file()}
    return judge_task(chat, task, files)


def _account(ended: Sequence[AgentRun]) -> dict[str, Any]:
    rows = [row for one in ended for row in read_rows(one.folder)]
    prompts = [Usage(**row["usage"]).prompt for row in rows if row["kind"] == "answer"]
    return {
        "steps": sum(one.steps for one in ended),
        "compactions": sum(one.compactions for one in ended),
        "usage": vars(sum_usage(one.account.usage for one in ended)),
        "compactor": vars(sum_usage(one.account.compactor for one in ended)),
        "money": round(sum(one.account.money for one in ended), 6),
        "peak": max((one.account.peak for one in ended), default=0),
        "rereads": count_rereads(ended),
        "prompts": prompts,
    }


def count_rereads(ended: Sequence[AgentRun]) -> int:
    """Returns the reads of files that were read or written before."""
    touched: Counter[str] = Counter()
    again = 0
    for name, path in _file_calls(ended):
        again += name == "read_file" and touched[path] > 0
        touched[path] += 1
    return again


def _file_calls(ended: Sequence[AgentRun]) -> Iterator[tuple[str, str]]:
    for call in (call for one in ended for turn in one.turns for call in turn.calls):
        if call.name in ("read_file", "write_file"):
            yield call.name, str(json.loads(call.arguments).get("path", ""))


def _open_scripted(tasks: Sequence[Task], condition: TaskCondition) -> ScriptedModel:
    rules = Rules() if condition.cached else Rules("off")
    return ScriptedModel(make_script(tasks), SCRIPTED, prices=PRICES, rules=rules)
