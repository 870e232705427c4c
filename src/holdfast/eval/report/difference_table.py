"""The table of paired differences for a terminal: what tells two methods apart, and in how many windows."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from holdfast.eval.differences import Difference, PairedScore
from holdfast.eval.report import numbers
from holdfast.eval.report.foreign import plain

MEASURES = {
    "retained": "answers",
    "keyword": "keyword",
    "forced_choice": "forced choice",
    "next_action": "next action",
    "action_tool": "its tool",
    "action_exact": "the same call",
    "action_f1": "its F1",
    "later_action": "later action",
    "later_tool": "later tool",
    "later_exact": "the same later call",
    "later_f1": "its later F1",
}


def difference_table(scores: Sequence[PairedScore]) -> Table:
    """Returns a line per method, ratio and measure."""
    against = scores[0].against if scores else ""
    caption = f"points by which a method is ahead of {against} at its ratio, 95 % interval over windows"
    result = Table(caption=plain(caption, "table.caption"), caption_justify="left", box=SIMPLE_HEAD, padding=0)
    result.add_column("method", overflow="fold", min_width=12)
    for name in ("ratio", "measure", "points", "95 % interval", "better", "worse", "windows", "n"):
        result.add_column(name, justify="left" if name == "measure" else "right")
    for score in scores:
        for at, (label, found) in enumerate(differences(score)):
            named = plain("" if at else score.method)
            result.add_row(named, numbers.times(score.ratio), plain(label), *map(Text, cells(found)))
    return result


def differences(score: PairedScore) -> list[tuple[str, Difference]]:
    """Returns every difference of a score under its label, categories of answers last."""
    known = [(label, score.measures[name]) for name, label in MEASURES.items() if name in score.measures]
    return [*known, *((f"answers: {name}", found) for name, found in score.by_category.items())]


def cells(found: Difference) -> tuple[str, ...]:
    """Returns the numbers of a difference in the order of the columns."""
    points = numbers.UNKNOWN if found.value is None else f"{100 * found.value:+.1f}"
    counts = (found.better, found.worse, found.n_windows, found.n)
    return (points, numbers.percent_interval(found.ci), *map(str, counts))
