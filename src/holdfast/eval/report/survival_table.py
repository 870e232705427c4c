"""The fate of each probe, for a terminal: the answers that survived at each ratio."""

from __future__ import annotations

from collections.abc import Iterable

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from holdfast.eval.report.foreign import plain
from holdfast.eval.rows import Row
from holdfast.eval.score import JoinedRow, join

KEPT, HALF = 0.9, 0.5


def survival_table(rows: Iterable[Row], method: str) -> Table:
    """Returns a line per probe: the nats that the full context gives its answer, and the share left at each ratio."""
    found = [j for j in join(rows) if j.row.method == method]
    ratios = sorted({j.row.ratio for j in found if j.row.ratio is not None})
    result = Table(
        caption=plain(f"share of the right answer's nats that survive {method}; red is lost", "table.caption"),
        caption_justify="left",
        box=SIMPLE_HEAD,
        padding=0,
    )
    result.add_column("question", ratio=1)
    result.add_column("answer", overflow="fold", max_width=28)
    result.add_column("nats", justify="right")
    for ratio in ratios:
        result.add_column(f"{ratio:g}x", justify="right", min_width=6)
    for probe in dict.fromkeys((j.row.transcript, j.row.probe) for j in found):
        mine = {j.row.ratio: j for j in found if (j.row.transcript, j.row.probe) == probe}
        first = next(iter(mine.values()))
        supplied = first.full.answer_logprob - first.none.answer_logprob
        cells = (_cell(mine.get(ratio), supplied) for ratio in ratios)
        result.add_row(plain(first.row.question), plain(first.row.answer), f"{supplied:.1f}", *cells)
    return result


def _cell(joined: JoinedRow | None, supplied: float) -> Text:
    if joined is None or supplied <= 0:
        return Text("-")
    share = (joined.row.answer_logprob - joined.none.answer_logprob) / supplied
    colour = "green" if share >= KEPT else "yellow" if share >= HALF else "red"
    return Text(f"{100 * share:.0f} %", colour)
