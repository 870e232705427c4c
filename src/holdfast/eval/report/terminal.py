"""The table of scores for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from holdfast.eval.report import numbers, summary
from holdfast.eval.report.foreign import plain
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
    "span,\nfile",
    "prefill,\ns",
    "compact,\ns",
)


def table(scores: Sequence[Score]) -> Table:
    """Returns one line per score; both columns of bytes say how many times fewer are held."""
    result = Table(caption=_caption(scores), caption_justify="left", box=SIMPLE_HEAD, padding=0)
    result.add_column("method", overflow="fold", min_width=12)
    for column in _COLUMNS:
        # rich takes missing width from the widest column that may wrap: the method
        result.add_column(column, justify="right", overflow="fold", no_wrap=column.startswith("retained"))
    for method, group in groupby(scores, key=lambda score: score.method):
        name = _breakable(method)
        for score in group:
            result.add_row(name, *map(Text, _cells(score)))
            name = Text()  # named once
    return result


def _caption(scores: Sequence[Score]) -> Text:
    meaning = (
        "shares in %, over n probes; KL, top-1 and next action over windows; bootstrap interval over windows;\n"
        f"KV bytes held, times fewer than {numbers.byte_base(scores)}: of the compacted span, of all with the rest,\n"
        "and of the span in a file"
    )
    warnings = (plain(f"\n{note}", "bold yellow") for note in summary.notes(scores))
    return Text.assemble(Text(meaning, "table.caption"), *warnings)


def _breakable(method: str) -> Text:
    """Lets a long method name break after its colon and commas."""
    return plain(method if len(method) <= 16 else method.replace(":", ":\n ").replace(",", ",\n "))


def _cells(score: Score) -> tuple[str, ...]:
    is_baseline = score.method in (FULL, NONE)  # whose interval says nothing
    bounds = "" if is_baseline else numbers.percent_interval(score.retained_ci)
    return (
        numbers.times(score.ratio),
        str(score.n),
        f"{_number(score.retained)} {bounds:>12}",
        _number(score.forced_choice),
        _number(score.keyword),
        numbers.number(score.kl),
        _number(score.top1),
        _number(score.next_action),
        numbers.times(numbers.span_ratio(score)),
        numbers.times(numbers.byte_ratio(score)),
        numbers.times(numbers.file_ratio(score)),
        numbers.seconds(score.seconds_prefill),
        numbers.seconds(score.seconds_compact),
    )


def _number(share: float | None) -> str:
    return numbers.percent(share).removesuffix(" %")
