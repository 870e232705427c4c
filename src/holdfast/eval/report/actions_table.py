"""The table of actions for a terminal: the next one, and the one behind three more turns, each in its measures."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from holdfast.eval.report import numbers
from holdfast.eval.report.foreign import plain
from holdfast.eval.score import Bounds, Score

_CAPTION = (
    "shares in %, 95 % interval over windows; kept: nats that the context supplies to the recorded action;\n"
    "tool, exact, F1: the greedy action beside the full context's greedy action; later: behind three more turns"
)


def actions_table(scores: Sequence[Score]) -> Table | None:
    """Returns a line per method and ratio, or None if no action is known."""
    if not any(score.n_next for score in scores):
        return None
    result = Table(caption=plain(_CAPTION, "table.caption"), caption_justify="left", box=SIMPLE_HEAD, padding=0)
    result.add_column("method", overflow="fold", min_width=12)
    for side in ("next", "later"):
        for name in ("n", f"{side} action\nkept", "tool\n", "exact\n", "F1\n"):
            result.add_column(name, justify="right", no_wrap=True)
    for score in scores:
        ratio = "" if score.ratio in (None, 1) else f" {numbers.times(score.ratio)}"
        result.add_row(plain(f"{score.method}{ratio}"), *map(Text, _cells(score)))
    return result


def _cells(score: Score) -> tuple[str, ...]:
    return (
        str(score.n_next),
        _share(score.next_action, score.next_action_ci if score.ratio != 1 else (None, None)),
        *(_share(value) for value in (score.action_tool, score.action_exact, score.action_f1)),
        str(score.n_later),
        _share(score.later_action, score.later_action_ci if score.ratio != 1 else (None, None)),
        *(_share(value) for value in (score.later_tool, score.later_exact, score.later_f1)),
    )


def _share(value: float | None, bounds: Bounds = (None, None)) -> str:
    return f" {numbers.percent(value).removesuffix(' %')} {numbers.percent_interval(bounds)}".rstrip()
