"""The answers to each probe beside the right one, for a terminal."""

from __future__ import annotations

from collections.abc import Iterable

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from holdfast.eval.report.foreign import plain
from holdfast.eval.rows import Row
from holdfast.eval.score import JoinedRow, join


def answers_table(rows: Iterable[Row], method: str, ratio: float) -> Table:
    """Returns a line per probe: the right answer, whether each context prefers it, and what each of them writes.

    A text is shown only if the full context writes the right one: what it gets wrong by itself no compaction lost.
    """
    caption = (
        f"prefers: the right answer to a plausible wrong one, more than without context; writes: greedy text; "
        f"{ratio:g}x is {method}"
    )
    result = Table(caption=plain(caption, "table.caption"), caption_justify="left", box=SIMPLE_HEAD, padding=0)
    result.add_column("question", ratio=1)
    result.add_column("right answer", overflow="fold", max_width=24)
    for name in ("full\nprefers it", f"{ratio:g}x\nprefers it"):
        result.add_column(name, justify="right")
    for name in ("full writes", f"{ratio:g}x writes"):
        result.add_column(name, overflow="fold", max_width=22)
    for joined in join(rows):
        if (joined.row.method, joined.row.ratio) == (method, ratio):
            result.add_row(plain(joined.row.question), plain(joined.row.answer, "bold"), *_cells(joined))
    return result


def _cells(joined: JoinedRow) -> tuple[Text, ...]:
    full, compact = joined.full, joined.row
    prefers = [_prefers_right(row, joined.none) for row in (full, compact)]
    choices = tuple(_mark("yes" if right else "no", right) for right in prefers)
    if not full.keyword:
        return (*choices, Text("-"), Text("-"))
    return (*choices, *(_mark(" ".join(row.text.split()), bool(row.keyword)) for row in (full, compact)))


def _prefers_right(row: Row, none: Row) -> bool:
    """Returns True if the context moves the model towards the right answer, as the forced choice of a score does."""
    return _margin(row) > _margin(none)


def _margin(row: Row) -> float:
    return row.answer_logprob / row.answer_tokens - row.distractor_logprob / row.distractor_tokens


def _mark(words: str, right: bool) -> Text:
    return plain(words, "green" if right else "red")
