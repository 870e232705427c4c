"""Tokens of each call's prompt under each strategy: linear, sawtooth or cycling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from holdfast.eval.report.drawing import Plot, draw, line_styles

_WIDTH, _HEIGHT = 7.2, 3.9
"""Inches."""
_APART = 0.055
"""Share of the axis that a label is high."""
_HEADROOM = 1.08


def curves(title: str, prompts: Mapping[str, Sequence[int]]) -> Plot:
    """Draws one line per strategy, with its name at its end; strategies of the same prompts share a line."""
    names: dict[tuple[int, ...], list[str]] = {}
    for name, tokens in prompts.items():
        names.setdefault(tuple(tokens), []).append(name)

    def paint(figure: Any) -> None:
        axes = figure.subplots()
        axes.set_title(title)
        looks = line_styles([", ".join(group) for group in names.values()])
        top = max((max(tokens, default=0) for tokens in names), default=0)
        last = max((len(tokens) for tokens in names), default=1)
        height = _HEADROOM * max(1, top)
        ends = spread_labels([tokens[-1] if tokens else 0 for tokens in names], _APART * height, height)
        for (label, look), tokens, y in zip(looks.items(), names, ends, strict=True):
            axes.plot(range(1, len(tokens) + 1), tokens, color=look.color, linestyle=look.dash)
            axes.annotate(
                label, (len(tokens), y), xytext=(6, 0), textcoords="offset points", color=look.color, va="center",
                fontsize=8.5, annotation_clip=False,
            )  # fmt: skip
        axes.set_xlim(1, max(2, last))
        axes.set_ylim(0, height)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.set_ylabel("tokens of the prompt")
        axes.set_xlabel("call")

    return draw("curves", _WIDTH, _HEIGHT, paint)


def spread_labels(ends: Sequence[float], apart: float, top: float) -> list[float]:
    """Returns the heights, moved apart so that none stands on another and none passes the top."""
    order = sorted(range(len(ends)), key=lambda i: ends[i])
    placed = [0.0] * len(ends)
    floor, ceiling = float("-inf"), top
    for at in order:
        placed[at] = floor = max(ends[at], floor + apart)
    for at in reversed(order):
        placed[at] = min(placed[at], ceiling)
        ceiling = placed[at] - apart
    return placed
