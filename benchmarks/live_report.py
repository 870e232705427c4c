"""Summary of the rows of `live.py`: a few lines for each server, and a plot."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from holdfast.eval.report.drawing import draw, line_styles

HOLDFAST, CACHE, STATELESS = "holdfast", "prefix cache", "stateless"
COMPARED = 20  # turns at the start and at the end


@dataclass(frozen=True)
class Row:
    """One request."""

    server: str
    tool_seconds: float
    """Between an answer and the next request."""
    turn: int
    prompt_tokens: int
    prefilled: int
    first_token: float
    """Seconds at the client, from sending the request."""
    processor: float
    """Of them, those that client and server kept a core busy: what is left where nobody shares the machine."""
    tokens: int
    """Of the session when the answer was complete, as those below."""
    slots: int
    bytes: int
    compactions: int
    load: float
    """Programs that wanted a core, as the system told at that moment."""
    compacted: int = 0
    """Tokens that the compaction after this answer took up; 0 where there was none."""
    compaction_seconds: float = 0.0

    @property
    def series(self) -> str:
        return series_of(self.server, self.tool_seconds)


def series_of(server: str, tool_seconds: float) -> str:
    """Returns the name of a series in tables and plots."""
    return f"{server}, tools {tool_seconds:g} s" if server == HOLDFAST else server


def with_compactions(rows: Sequence[Row], events: Sequence[dict[str, Any]]) -> list[Row]:
    """Returns the rows with each compaction of a session's past added to the answer before it."""
    out, at = list(rows), -1
    for event in events:
        done = event.get("told", {})
        if event["kind"] == "turns" and "prompt" in done:
            at += 1
        elif event["kind"] == "compacted":
            row = out[at]
            took = row.compaction_seconds + done["seconds"]
            out[at] = replace(row, compacted=row.compacted + done["compacted"], compaction_seconds=took)
    return out


def print_summary(rows: Sequence[Row], read: Counter[str]) -> None:
    """Prints one server in a few lines."""
    last, every = rows[-1], len(rows) == rows[-1].turn
    prefilled, compacted = sum(row.prefilled for row in rows), sum(row.compacted for row in rows)
    print(f"\n{last.series}: {len(rows)} requests, load {statistics.mean(row.load for row in rows):.1f}")
    share = f", {prefilled / last.tokens:.3f} of the session's {last.tokens}" if every else ""
    print(f"  read for prompts   {prefilled} tokens{share}")
    if compacted:
        ratio = (prefilled + read["compact"]) / last.tokens
        print(f"  read to compact    {read['compact']} tokens for {compacted} compacted; both together {ratio:.3f}")
        took = [row.compaction_seconds for row in rows if row.compaction_seconds]
        print(f"  compactions        {len(took)}, seconds: {', '.join(f'{one:.1f}' for one in took)}")
    print(f"  read in all        {read['answer'] + read['compact']} tokens, what was generated among them")
    for clock in ("first_token", "processor"):
        early, late = ends(rows, clock)
        for name, part in (("p50", 0.5), ("p95", 0.95), ("most", 1.0)) if early and late else ():
            one, two = quantile(early, part), quantile(late, part)
            n = f"n {len(early)}, {len(late)}"
            print(f"  {clock:<12} {name:<5} {one:.2f} s -> {two:.2f} s: {two / one:.2f} times, {n}")
    print(f"  held at the end    {last.slots} slots, {last.bytes / 1e6:.1f} MB; most {max(r.slots for r in rows)}")


def ends(rows: Sequence[Row], field: str = "first_token") -> tuple[list[float], list[float]]:
    """Returns the values of a field in the first turns, and in as many at the end."""
    turns = rows[-1].turn
    size = min(COMPARED, turns // 2)
    early = [getattr(row, field) for row in rows if row.turn <= size]
    return early, [getattr(row, field) for row in rows if row.turn > turns - size]


def quantile(values: Sequence[float], share: float) -> float:
    """Returns the least value that at least `share` of the values do not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def plot_rows(rows: Sequence[Row]) -> bytes:
    """Plots tokens read, seconds to first token and slots in memory over the turns, as a PNG."""
    by_series: dict[str, list[Row]] = {}
    for row in rows:
        by_series.setdefault(row.series, []).append(row)
    looks = line_styles(list(by_series))
    panels = {
        "prefilled": "Tokens read for the prompt",
        "first_token": "Seconds to first token",
        "slots": "Slots held after the answer",
    }

    def paint(figure: Any) -> None:
        from matplotlib.ticker import StrMethodFormatter

        axes = figure.subplots(len(panels), 1, sharex=True)
        for axis, (name, title) in zip(axes, panels.items(), strict=True):
            for width, (series, found) in zip(range(len(by_series), 0, -1), by_series.items(), strict=True):
                look, every = looks[series], len(found) == found[-1].turn
                style = {"color": look.color, "marker": look.marker, "linestyle": look.dash if every else "none"}
                size = {
                    "linewidth": 0.8 * width,
                    "markersize": width + 1 if every else 6,
                }  # what lies below another still shows
                axis.plot(
                    [row.turn for row in found], [getattr(row, name) for row in found], label=series, **style, **size
                )
            axis.set_title(title)
            axis.set_yscale("linear" if name == "slots" else "log")
            axis.yaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
        axes[-1].set_xlabel("turn")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(by_series))

    return draw("live", 8.5, 9, paint).png
