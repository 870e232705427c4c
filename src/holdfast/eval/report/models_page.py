"""One page over several models: the trend with model size, every score, and differences to a baseline in each model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from string import Template
from typing import Any

from holdfast.eval.differences import PairedScore
from holdfast.eval.models import ModelRun
from holdfast.eval.report import numbers, plots, summary, tables
from holdfast.eval.report.drawing import Plot, draw, line_styles
from holdfast.eval.report.page import figure, text
from holdfast.eval.rows import Row
from holdfast.eval.score import Score

_CAPTION = "At {ratio}. Bars are 95 % bootstrap intervals over windows; n counts probes and, for actions, windows."
_PANELS = (("Answer information kept", "retained"), ("Next-action information kept", "next_action"))
Scores = Mapping[ModelRun, Sequence[Score]]


def models_page(
    rows: Mapping[ModelRun, Sequence[Row]],
    scores: Scores,
    found: Mapping[ModelRun, Sequence[PairedScore]],
    drawn: Sequence[Plot],
) -> str:
    """Returns the whole page; equal rows give equal bytes."""
    template = files(__package__).joinpath("models.html").read_text(encoding="utf-8")
    ratio = numbers.times(numbers.common_ratio(_all(scores)))
    return Template(template).substitute(
        style=_style(),
        headline=text(_headline(scores)),
        facts="\n".join(f"<div><dt>{text(label)}</dt><dd>{text(value)}</dd></div>" for label, value in _facts(rows)),
        plots="\n".join(figure(plot, _CAPTION.format(ratio=ratio)) for plot in drawn),
        table=tables.models(scores, text),
        differences="\n".join(
            tables.comparisons(part, text).replace("<h2>", f"<h2>{text(run.model)}: ", 1) for run, part in found.items()
        ),
    )


def trend(scores: Scores) -> list[Plot]:
    """Draws answers and next action against the size of the model, at the ratio that most methods share."""
    ratio = numbers.common_ratio(_all(scores))
    chosen = {run: [s for s in numbers.methods(found) if s.ratio == ratio] for run, found in scores.items()}
    sized = {run: found for run, found in chosen.items() if run.parameters and found}
    if len({run.parameters for run in sized}) < 2:
        return []
    return [_draw_trend(sized, title, field) for title, field in _PANELS]


def _draw_trend(scores: Scores, title: str, field: str) -> Plot:
    looks = line_styles(sorted({s.method for found in scores.values() for s in found}))

    def paint(drawing: Any) -> None:
        axes = drawing.subplots()
        axes.set_title(title)
        for method, look in looks.items():
            mine = [(run.parameters, s) for run, found in scores.items() for s in found if s.method == method]
            known = [(x, s) for x, s in mine if getattr(s, field) is not None]
            points = [(float(x), getattr(s, field), getattr(s, f"{field}_ci")) for x, s in known]
            plots.draw_curve(axes, sorted(points), look)
        plots.share_axis(axes, "retained")
        _size_axis(axes, list(scores))
        handles = [plots.legend_handle(look) for look in looks.values()]
        drawing.legend(handles, list(looks), loc="outside lower left", ncols=2, fontsize=8.5)

    return draw(f"trend-{field.replace('_', '-')}", plots.WIDTH, plots.AXES_HEIGHT + 0.18 * -(-len(looks) // 2), paint)


def _size_axis(axes: Any, runs: Sequence[ModelRun]) -> None:
    from matplotlib.ticker import NullLocator

    sizes = sorted({run.parameters for run in runs})
    axes.set_xscale("log")
    axes.set_xlim(sizes[0] / 1.4, sizes[-1] * 1.4)
    axes.set_xticks(sizes, [_size(n) for n in sizes])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("parameters of the model")


def _size(parameters: int) -> str:
    if not parameters:
        return "size unknown"
    return f"{parameters / 1e9:.2g}B" if parameters >= 1e9 else f"{parameters / 1e6:.3g}M"


def _headline(scores: Scores) -> str:
    best = [f"{run.model}: {summary.headline(found)}" for run, found in scores.items()]
    return " ".join(best)


def _facts(rows: Mapping[ModelRun, Sequence[Row]]) -> list[tuple[str, str]]:
    pairs = [(run.model, f"{_size(run.parameters)}, {run.dtype}, windows of {run.window} tokens") for run in rows]
    every = [row for part in rows.values() for row in part]
    known = [(label, value) for label, value in summary.facts(every, ()) if label in ("Measured", "Holdfast", "Device")]
    return [*pairs, *known]


def _all(scores: Scores) -> list[Score]:
    return [score for found in scores.values() for score in found]


def _style() -> str:
    """Returns the style of the page of one model."""
    page = files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    return page[page.index("<style>") : page.index("</style>") + len("</style>")]
