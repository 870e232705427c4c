"""The table of the programs that were built: what they pass, and what they cost, beside a named baseline."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from statistics import mean

from rich.box import SIMPLE_HEAD
from rich.table import Table

from holdfast.bench.tasks.run import TaskRow
from holdfast.eval.report import numbers
from holdfast.eval.report.foreign import plain


def task_table(rows: Sequence[TaskRow], baseline: str) -> Table:
    """Returns a line for each agent, condition, trigger and kind of session: means, and ranges over trials."""
    groups: dict[tuple[str, str, int, str], list[TaskRow]] = defaultdict(list)
    for row in rows:
        groups[row.session, row.condition, row.trigger, row.agent].append(row)
    costs = {key: mean(row.money for row in part) for key, part in groups.items()}
    caption = f"money beside {baseline} of the same kind of session; a task is solved if all of its hidden checks pass"
    table = Table(
        caption=plain(caption, "table.caption"), caption_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    table.add_column("condition", overflow="fold")
    for name in ("session", "trigger", "n", "tasks", "checks", "steps", "compacted", "tokens in", "of them cached"):
        table.add_column(name, justify="right")
    for name in ("peak", "re-reads", "USD", "to baseline", "s"):
        table.add_column(name, justify="right")
    for key, part in groups.items():
        session, condition, trigger, agent = key
        base = costs.get((session, baseline, trigger, agent)) or next(
            (cost for (s, c, _, a), cost in costs.items() if (s, c, a) == (session, baseline, agent)), None
        )
        table.add_row(
            plain(condition),
            session,
            f"{trigger:,}",
            str(len(part)),
            *_cells(part),
            _change(costs[key], base),
            _seconds(part),
        )
    return table


def _cells(part: Sequence[TaskRow]) -> tuple[str, ...]:
    solved = [sum(row.passed[name] == row.checks[name] for name in row.checks) for row in part]
    total = len(part[0].checks)
    prompts = mean(sum(row.usage.values()) - row.usage["output"] for row in part)
    return (
        f"{mean(solved):g}/{total}",
        f"{mean(sum(row.passed.values()) for row in part):g}/{sum(part[0].checks.values())}",
        _range([row.steps for row in part]),
        _range([row.compactions for row in part]),
        f"{prompts:,.0f}",
        f"{mean(row.usage['cached'] for row in part):,.0f}",
        f"{max(row.peak for row in part):,}",
        _range([row.rereads for row in part]),
        f"{mean(row.money for row in part):.3f}",
    )


def _range(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return f"{low}" if low == high else f"{low}-{high}"


def _change(cost: float, base: float | None) -> str:
    return numbers.UNKNOWN if not base else f"{100 * (cost / base - 1):+.0f} %"


def _seconds(part: Sequence[TaskRow]) -> str:
    return numbers.seconds(mean(row.seconds for row in part))
