"""The plot of `bench keep`: the share of programs that keep every fact, over the bytes of their context."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from holdfast.bench.keep.score import KeepScore
from holdfast.eval.report.drawing import Plot, draw, line_styles

_RATIO = re.compile(r"@[\d.]+")


def draw_pass_rates(scores: Sequence[KeepScore]) -> Plot:
    """Draws a panel for each model and size, and in it a line for each method through its ratios, with intervals."""
    panels: dict[tuple[str, int], dict[str, list[KeepScore]]] = defaultdict(lambda: defaultdict(list))
    for one in scores:
        panels[one.model, one.size][_RATIO.sub("", one.condition)].append(one)
    styles = line_styles(list(dict.fromkeys(name for lines in panels.values() for name in lines)))

    def paint(figure: Any) -> None:
        row = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axes, ((model, size), lines) in zip(row, panels.items(), strict=True):
            axes.set_title(f"{model}, {size:,} tokens")
            axes.set_xlabel("times fewer bytes than the full context in bfloat16")
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_formatter(lambda value, place: f"{value:g}")
            for name, points in lines.items():
                _paint_line(axes, name, sorted(points, key=lambda one: one.byte_ratio), styles[name])
            axes.set_ylim(-3, 103)
        row[0].set_ylabel("programs that keep every fact, %")
        shown = {label: handle for axes in row for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
        figure.legend(list(shown.values()), list(shown), loc="outside lower center", ncols=2)

    return draw("keep", 3.2 + 4.8 * len(panels), 5.4, paint)


def _paint_line(axes: Any, name: str, points: Sequence[KeepScore], style: Any) -> None:
    rates = [100 * one.passed.value for one in points]
    bounds = [[100 * (at if at is not None else one.passed.value) for at in one.passed.ci] for one in points]
    below = [max(0.0, rate - low) for rate, (low, _) in zip(rates, bounds, strict=True)]
    above = [max(0.0, high - rate) for rate, (_, high) in zip(rates, bounds, strict=True)]
    axes.errorbar(
        [one.byte_ratio for one in points],
        rates,
        yerr=[below, above],
        label=name,
        color=style.color,
        marker=style.marker,
        linestyle=style.dash,
        elinewidth=0.8,
    )
