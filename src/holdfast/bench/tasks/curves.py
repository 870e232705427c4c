"""The curves of a context: the tokens of each call's prompt, which grow, fall at compactions, or come and go."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from holdfast.bench.tasks.run import TaskRow
from holdfast.eval.report.drawing import Plot, draw, line_styles


def draw_curves(rows: Sequence[TaskRow]) -> Plot:
    """Draws a line for the first trial of each condition and trigger, all tasks in one session."""
    shown = {f"{row.condition}, {row.trigger:,}": row for row in reversed(rows) if row.session == "one"}
    shown = dict(reversed(shown.items()))
    styles = line_styles(list(shown))

    def paint(figure: Any) -> None:
        axes = figure.subplots()
        axes.set_title("Tokens of each call's prompt, all tasks in one session")
        for name, row in shown.items():
            style = styles[name]
            axes.plot(range(1, len(row.prompts) + 1), row.prompts, label=name, color=style.color, linestyle=style.dash)
        axes.set_xlabel("call")
        axes.set_ylabel("tokens")
        axes.set_ylim(bottom=0)
        axes.legend()

    return draw("prompts", 6.4, 3.7, paint)
