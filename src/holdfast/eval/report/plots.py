"""The report's plots: what a method keeps against how much smaller it is, and against what it costs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from holdfast.eval.report import numbers
from holdfast.eval.report.drawing import INK, MUTED, LineStyle, Plot, draw, line_styles
from holdfast.eval.score import Bounds, Score

_FLOOR_SECONDS = 1e-3
"""Where a compaction that takes no measurable time is drawn on the logarithmic axis."""
WIDTH, AXES_HEIGHT = 6.4, 3.7
"""Inches."""

Value = Callable[[Score], float | None]
Spread = Callable[[Score], Bounds]


def plots(scores: Sequence[Score]) -> list[Plot]:
    """Draws every plot that the scores have data for."""
    if not numbers.methods(scores):
        return []
    drawn = [quality(scores), quality_by_bytes(scores), seconds(scores), categories(scores)]
    known = [s for s in numbers.methods(scores) if s.next_action is not None or s.kl is not None]
    return [*drawn, fidelity(scores)] if known else drawn


def quality(scores: Sequence[Score]) -> Plot:
    """Draws retained answer information against the ratio that was asked for."""

    def paint(figure: Any) -> None:
        axes = figure.subplots()
        axes.set_title("Answer information kept")
        _curves(axes, scores, _ratio, (lambda s: s.retained, lambda s: s.retained_ci))
        share_axis(axes, "retained")
        _ratio_axis(axes, map(_ratio, numbers.methods(scores)), "times fewer slots asked for")
        _legend(figure, scores, _looks(scores))

    return draw("quality", WIDTH, _height(scores), paint)


def quality_by_bytes(scores: Sequence[Score]) -> Plot:
    """Draws retained answer information against the bytes really held for the whole window."""

    def paint(figure: Any) -> None:
        axes = figure.subplots()
        axes.set_title("Answer information kept, by real size")
        _curves(axes, scores, numbers.byte_ratio, (lambda s: s.retained, lambda s: s.retained_ci))
        share_axis(axes, "retained")
        _ratio_axis(
            axes,
            map(numbers.byte_ratio, numbers.methods(scores)),
            f"times fewer KV bytes than {numbers.byte_base(scores)}",
        )
        _legend(figure, scores, _looks(scores))

    return draw("bytes", WIDTH, _height(scores), paint)


def seconds(scores: Sequence[Score]) -> Plot:
    """Draws the seconds of compaction against the ratio, beside the prefill that they come on top of."""

    def spent(score: Score) -> float:
        return max(score.seconds_compact, _FLOOR_SECONDS)

    def paint(figure: Any) -> None:
        axes = figure.subplots()
        axes.set_title("Seconds of compaction")
        _curves(axes, scores, _ratio, (spent, lambda _: (None, None)))
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.yaxis.set_minor_formatter(lambda *_: "")  # its default is TeX, which names with a `$` forbid
        axes.set_ylabel("seconds for a window")
        prefill = max(score.seconds_prefill for score in scores)
        if prefill > 0:
            _reference(axes, prefill, f"prefill\n{numbers.seconds(prefill)} s")
        axes.margins(y=0.15)
        _ratio_axis(axes, map(_ratio, numbers.methods(scores)), "times fewer slots asked for")
        _legend(figure, scores, _looks(scores))

    return draw("seconds", WIDTH, _height(scores), paint)


def categories(scores: Sequence[Score]) -> Plot:
    """Draws retained information of each category at the ratio that most methods share."""
    ratio = numbers.common_ratio(scores)
    chosen = [score for score in numbers.methods(scores) if score.ratio == ratio]
    counts = {name: part.n for score in chosen for name, part in score.by_category.items()}
    height = 1.6 + 0.24 * len(counts) * (len(chosen) + 0.8)

    def paint(figure: Any) -> None:
        axes = figure.subplots()
        axes.set_title(f"Answer information kept at {numbers.times(ratio)}, by category")
        _bars(axes, chosen, sorted(counts), _looks(scores))
        middle = [i * (len(chosen) + 0.8) + (len(chosen) - 1) / 2 for i in range(len(counts))]
        axes.set_yticks(middle, [f"{_short(name, 20)}\nn = {counts[name]}" for name in sorted(counts)])
        axes.invert_yaxis()
        _percents(axes.xaxis)
        axes.grid(visible=False)
        axes.axvline(0, color=MUTED, linewidth=0.8)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
        axes.set_xlim(min(axes.get_xlim()[0], 0), max(axes.get_xlim()[1], 1.1))
        axes.tick_params(axis="y", length=0, labelcolor=INK)
        _legend(figure, chosen, _looks(scores))

    return draw("categories", WIDTH, max(height, 2.8), paint)


def fidelity(scores: Sequence[Score]) -> Plot:
    """Draws next-action information and divergence on the session's real next turns."""

    def paint(figure: Any) -> None:
        left, right = figure.subplots(1, 2)
        left.set_title("Next-action information kept")
        _curves(left, scores, _ratio, (lambda s: s.next_action, lambda s: s.next_action_ci))
        share_axis(left, "retained")
        right.set_title("Divergence on the next turns")
        _curves(right, scores, _ratio, (lambda s: s.kl, lambda s: s.kl_ci))
        none = next((s.kl for s in scores if s.method == "none"), None)
        if none is not None:
            _reference(right, none, "none")
        right.set_ylabel("mean KL(full ‖ compact), nats per token")
        right.set_ylim(bottom=0)
        for axes in (left, right):
            _ratio_axis(axes, map(_ratio, numbers.methods(scores)), "times fewer slots asked for")
        _legend(figure, scores, _looks(scores))

    return draw("fidelity", 2 * WIDTH, _height(scores, 2 * WIDTH), paint)


def _ratio(score: Score) -> float | None:
    return score.ratio


def _looks(scores: Sequence[Score]) -> dict[str, LineStyle]:
    return line_styles(sorted({score.method for score in numbers.methods(scores)}))


def _curves(axes: Any, scores: Sequence[Score], x: Value, y: tuple[Value, Spread]) -> None:
    value, spread = y
    looks = _looks(scores)
    for place, (method, look) in enumerate(looks.items()):
        nudge = 2 ** (0.03 * (place - (len(looks) - 1) / 2))  # so that intervals at one ratio stand side by side
        points = [(x(s), value(s), spread(s)) for s in scores if s.method == method]
        known = sorted((px * nudge, py, ci) for px, py, ci in points if px is not None and py is not None)
        draw_curve(axes, known, look)


def draw_curve(axes: Any, points: Sequence[tuple[float, float, Bounds]], look: LineStyle) -> None:
    """Draws points with their intervals."""
    xs, ys = [p[0] for p in points], [p[1] for p in points]
    axes.plot(xs, ys, color=look.color, marker=look.marker, linestyle=look.dash, zorder=3)
    for x, _, (low, high) in points:
        if low is not None and high is not None:
            axes.plot([x, x], [low, high], color=look.color, linewidth=1.1, alpha=0.65, zorder=2)


def _bars(axes: Any, chosen: Sequence[Score], names: Sequence[str], looks: dict[str, LineStyle]) -> None:
    for row, name in enumerate(names):
        for place, score in enumerate(chosen):
            part = score.by_category.get(name)
            if part is None or part.retained is None:
                continue
            y = row * (len(chosen) + 0.8) + place
            axes.barh(y, part.retained, height=0.82, color=looks[score.method].color)
            low, high = part.retained_ci
            if low is not None and high is not None:
                axes.plot([low, high], [y, y], color=INK, linewidth=1.1)
            axes.annotate(
                f"{100 * part.retained:.0f} %",
                (max(part.retained, high or 0, 0), y),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
            )


def share_axis(axes: Any, label: str) -> None:
    """Draws an axis of shares with both baselines."""
    _percents(axes.yaxis)
    axes.set_ylabel(label)
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, -0.06), max(high, 1.1))
    _reference(axes, 1, "full")
    _reference(axes, 0, "none")


def _reference(axes: Any, y: float, label: str) -> None:
    axes.axhline(y, color=MUTED, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    axes.annotate(
        label,
        (1, y),
        xycoords=("axes fraction", "data"),
        xytext=(5, 0),
        textcoords="offset points",
        va="center",
        fontsize=8,
        color=MUTED,
    )


def _ratio_axis(axes: Any, values: Iterable[float | None], label: str) -> None:
    from matplotlib.ticker import NullLocator

    ratios = sorted({value for value in values if value})
    axes.set_xscale("log", base=2)
    low, high = ratios[0], ratios[-1]
    room = max((high / low) ** 0.08, 1.12)
    axes.set_xlim(low / room, high * room)
    ticks = _ticks(ratios, (high / low) ** 0.07)
    axes.set_xticks(ticks, [numbers.times(tick) for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(label)


def _ticks(ratios: Sequence[float], gap: float) -> list[float]:
    """Returns the ratios, less those that would print over the tick before them."""
    kept: list[float] = []
    for ratio in ratios:
        if not kept or ratio >= kept[-1] * gap:
            kept.append(ratio)
    return kept


def _percents(axis: Any) -> None:
    axis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")


def _height(scores: Sequence[Score], width: float = WIDTH) -> float:
    """Returns the height, in inches, of the axes and of every line of the legend."""
    labels = _labels(scores)
    return AXES_HEIGHT + 0.18 * -(-len(labels) // _legend_columns(labels, width))


def _labels(scores: Sequence[Score]) -> dict[str, str]:
    counts: dict[str, set[int]] = {}
    for score in numbers.methods(scores):
        counts.setdefault(score.method, set()).add(score.n)
    return {method: f"{_short(method)} (n = {_span(counts[method])})" for method in sorted(counts)}


def _span(counts: set[int]) -> str:
    return str(min(counts)) if len(counts) == 1 else f"{min(counts)} to {max(counts)}"


def _short(name: str, longest: int = 56) -> str:
    return name if len(name) <= longest else f"{name[: longest - 1]}…"


def _legend_columns(labels: dict[str, str], width: float) -> int:
    return max(1, int(width * 11) // (max(map(len, labels.values())) + 8))


def _legend(figure: Any, scores: Sequence[Score], looks: dict[str, LineStyle]) -> None:
    labels = _labels(scores)
    handles = [legend_handle(looks[method]) for method in labels]
    columns = _legend_columns(labels, figure.get_figwidth())
    figure.legend(handles, labels.values(), loc="outside lower left", ncols=columns, fontsize=8.5)


def legend_handle(look: LineStyle) -> Any:
    """Returns the line of a legend."""
    from matplotlib.lines import Line2D

    return Line2D([], [], color=look.color, marker=look.marker, linestyle=look.dash)
