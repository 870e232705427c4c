"""The table of scores for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from holdfast.eval.report import numbers
from holdfast.eval.rows import FULL, NONE
from holdfast.eval.score import Score

_COLUMNS = (
    "ratio",
    "n",
    "retained\n[95 % interval]",
    "forced\nchoice",
    "key-\nword",
    "KL,\nnats",
    "top-1\n",
    "next\naction",
    "span\nbytes",
    "all\nbytes",
    "prefill,\ns",
    "compact,\ns",
)


def table(scores: Sequence[Score]) -> Table:
    """One line per score; both columns of bytes say how many times fewer are really held."""
    caption = (
        "shares in %, over n probes; KL, top-1 and next action over windows; KV bytes really held, of the\n"
        "compacted span and of all with the verbatim rest"
    )
    result = Table(caption=caption, caption_justify="left", box=SIMPLE_HEAD, padding=0)
    result.add_column("method", overflow="fold", min_width=12)
    for name in _COLUMNS:
        # rich takes missing width from the widest column that may wrap: the method
        result.add_column(name, justify="right", overflow="fold", no_wrap=name.startswith("retained"))
    for method, group in groupby(scores, key=lambda score: score.method):
        name = _folded(method)
        for score in group:
            result.add_row(name, *_cells(score))
            name = ""
    return result


def _folded(method: str) -> str:
    """A long spelling breaks after its colon and commas."""
    return escape(method if len(method) <= 16 else method.replace(":", ":\n ").replace(",", ",\n "))


def _cells(score: Score) -> tuple[str, ...]:
    is_baseline = score.method in (FULL, NONE)  # whose interval says nothing
    bounds = "" if is_baseline else numbers.percent_interval(score.retained_ci)
    return (
        numbers.times(score.ratio),
        str(score.n),
        escape(f"{_bare(score.retained)} {bounds:>12}"),
        _bare(score.forced_choice),
        _bare(score.keyword),
        numbers.number(score.kl),
        _bare(score.top1),
        _bare(score.next_action),
        numbers.times(numbers.span_ratio(score)),
        numbers.times(numbers.byte_ratio(score)),
        numbers.seconds(score.seconds_prefill),
        numbers.seconds(score.seconds_compact),
    )


def _bare(share: float | None) -> str:
    return numbers.percent(share).removesuffix(" %")
