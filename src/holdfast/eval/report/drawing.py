"""One look for every plot, as PNG for files and as SVG whose colours follow the page's light or dark theme.

Nothing depends on the time, the machine's fonts or a user's matplotlibrc: the same rows give the same bytes.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

INK, MUTED, RULE = "#1c2129", "#667080", "#dde2e9"
SERIES = ("#0072b2", "#d55e00", "#009e73", "#aa4499", "#b8860b", "#4b9fd8", "#7a7a7a")
"""After Okabe and Ito: told apart with any colour vision; markers and dashes repeat the distinction."""
_MARKERS, _DASHES = "osD^vPX", ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)))
_THEMED = {INK: "--ink", MUTED: "--muted", RULE: "--rule"} | {c: f"--series-{i}" for i, c in enumerate(SERIES)}

_STYLE: dict[str, Any] = {
    "svg.hashsalt": "holdfast",
    "svg.fonttype": "none",
    "text.parse_math": False,  # a `$` in a name is a dollar sign
    "font.family": ["DejaVu Sans"],
    "font.size": 9.5,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.markersize": 5.5,
}


class LineStyle(NamedTuple):
    """The colour, marker and dash of one method in every plot."""

    color: str
    marker: str
    dash: Any


class Plot(NamedTuple):
    """One plot, ready for the page and for a file."""

    name: str
    svg: str
    png: bytes


def line_styles(methods: Sequence[str]) -> dict[str, LineStyle]:
    """Returns a look for each method, fixed by its place in the list."""
    return {
        name: LineStyle(SERIES[i % len(SERIES)], _MARKERS[i % len(_MARKERS)], _DASHES[i // len(SERIES) % len(_DASHES)])
        for i, name in enumerate(methods)
    }


def draw(name: str, width: float, height: float, paint: Callable[[Any], None]) -> Plot:
    """Renders a figure (size in inches) that `paint` fills, as SVG and as PNG."""
    from matplotlib.figure import Figure

    with _style():
        figure = Figure(figsize=(width, height), layout="constrained")
        paint(figure)
        svg, png = io.StringIO(), io.BytesIO()
        figure.savefig(svg, format="svg", transparent=True, metadata={"Date": None})
        figure.savefig(png, format="png", dpi=160, facecolor="white", metadata={"Software": None})
    return Plot(name, _apply_theme(svg.getvalue()), png.getvalue())


@contextmanager
def _style() -> Iterator[None]:
    from matplotlib import style

    with style.context(["default", _STYLE]), warnings.catch_warnings():
        # A name in a script that the font lacks is shown as boxes in the PNG and well in the page.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def _apply_theme(svg: str) -> str:
    """Returns the bare <svg> element: no prolog, no metadata, no ids that plots would share, colours as variables."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    head, _, body = svg.partition(">")
    size = re.search(r'viewBox="[^"]*"', head)
    for colour, variable in _THEMED.items():
        body = body.replace(colour, f"var({variable})")
    return f'<svg {size.group() if size else ""} role="img">{body.replace("xlink:href", "href")}'
