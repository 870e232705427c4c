"""The tables of scores for a terminal: a line per condition."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table

from holdfast.bench.keep.score import Estimate, KeepScore
from holdfast.eval.report import numbers
from holdfast.eval.report.foreign import plain


def keep_table(scores: Sequence[KeepScore], against: str) -> Table:
    """Returns the table of one model's scores at one size."""
    first = scores[0]
    caption = (
        f"{first.model}, sessions of {first.size} tokens, prefill {numbers.seconds(first.seconds_prefill)} s; 95 % "
        f"intervals over items; differences in points to {against}, item by item"
    )
    table = Table(
        caption=plain(caption, "table.caption"), caption_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    table.add_column("condition", overflow="fold", min_width=16)
    for name in ("n", "passed", "facts", "passed less", "facts less", "bytes", "s"):
        table.add_column(name, justify="right")
    for score in scores:
        table.add_row(
            plain(score.condition),
            str(score.n),
            _percent(score.passed),
            _percent(score.facts),
            _points(score.passed_against),
            _points(score.facts_against),
            f"1/{score.byte_ratio:.3g}",
            numbers.seconds(score.seconds_context),
        )
    return table


def _percent(found: Estimate) -> str:
    return f"{100 * found.value:.0f} % {_bounds(found)}"


def _points(found: Estimate | None) -> str:
    return numbers.UNKNOWN if found is None else f"{100 * found.value:+.0f} {_bounds(found)}"


def _bounds(found: Estimate) -> str:
    low, high = found.ci
    return "" if low is None or high is None else f"[{100 * low:.0f}, {100 * high:.0f}]"
