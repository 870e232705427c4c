"""Draws the pictures of the pages: `python docs/picture.py`.

The one of the README comes from its table in docs/log.md, the one of the imports from the source and its layers.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import grimp
import matplotlib as mpl

mpl.use("svg")
import matplotlib.pyplot as plt

DOCS = Path(__file__).parent
HEADING = "every method at equal slots and in real bytes"
ROW = re.compile(r"^\| (?P<name>[^|]+?) \| (?P<ratio>\d+)x \| (?P<kept>[\d.]+) \[(?P<low>-?[\d.]+), (?P<high>[\d.]+)\]")
CURVES = {
    "**`informed`**": ("Holdfast (informed)", "#0a7f5a"),
    "kvpress KVzip": ("kvpress KVzip", "#3b6fb6"),
    "kvpress ExpectedAttention": ("kvpress ExpectedAttention", "#8a63b8"),
    "`truncate`": ("dropping the oldest", "#b0532b"),
}


def read_rows(text: str) -> dict[str, list[tuple[int, float, float, float]]]:
    """Returns (ratio, kept, low, high) in percent by method, read from the first table below the heading."""
    rows: dict[str, list[tuple[int, float, float, float]]] = {}
    for line in text[text.index(f"## 2026-11-20: {HEADING}") :].partition("\n\n- ")[0].split("\n"):
        if match := ROW.match(line):
            low, high = float(match["low"]), float(match["high"])
            rows.setdefault(match["name"], []).append((int(match["ratio"]), float(match["kept"]), low, high))
    return rows


def draw(rows: dict[str, list[tuple[int, float, float, float]]], path: Path) -> None:
    """Draws one curve with its interval for each method, and writes the SVG."""
    mpl.rcParams.update({"svg.hashsalt": "holdfast", "font.size": 11, "font.family": "sans-serif"})
    figure, axes = plt.subplots(figsize=(7.2, 3.4))
    for name, (label, colour) in CURVES.items():
        points = rows[name]
        ratios = [point[0] for point in points]
        axes.plot(ratios, [point[1] for point in points], marker="o", color=colour, label=label)
        axes.fill_between(ratios, [p[2] for p in points], [p[3] for p in points], color=colour, alpha=0.15, linewidth=0)
    axes.set_xscale("log", base=2)
    axes.set_xticks([2, 4, 8, 16, 32], ["2x", "4x", "8x", "16x", "32x"])
    axes.set_ylim(0, 110)
    axes.set_xlabel("times fewer KV pairs")
    axes.set_ylabel("answers that survive, %")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def read_layers() -> list[list[str]]:
    """Returns the packages of each layer, the highest first."""
    contracts = tomllib.loads((DOCS.parent / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    return [[name.strip().removeprefix("holdfast.") for name in re.split(r"[|:]", layer)] for layer in layers]


def draw_imports(path: Path) -> None:
    """Draws every package on its layer, with an arrow for each pair of packages of which one imports the other."""
    places = {}
    layers = read_layers()
    for row, names in enumerate(layers):
        for column, name in enumerate(names):
            places[name.strip("()")] = (2.2 * (column - (len(names) - 1) / 2) + (0.7 if row % 2 else -0.7), -row)
    graph = grimp.build_graph("holdfast")
    figure, axes = plt.subplots(figsize=(8, 0.62 * len(layers) + 0.6))
    pairs = set()
    for source in graph.modules:
        for target in graph.find_modules_directly_imported_by(source):
            pairs.add(tuple(name.split(".")[1] if "." in name else "" for name in (source, target)))
    arrow = {"arrowstyle": "-|>", "color": "#9db4c8", "lw": 0.6}
    for source, target in sorted(pairs):
        if source != target and source in places and target in places:
            axes.annotate("", places[target], places[source], arrowprops=arrow)
    for name, (x, y) in places.items():
        box = {"boxstyle": "round", "facecolor": "#eef4f1", "edgecolor": "#0a7f5a"}
        axes.text(x, y, name, ha="center", va="center", bbox=box, fontsize=9)
    axes.set_xlim(-5, 5)
    axes.set_ylim(-len(layers), 0.6)
    axes.axis("off")
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


if __name__ == "__main__":
    draw_imports(DOCS / "assets" / "imports.svg")
    draw(read_rows((DOCS / "log.md").read_text("utf-8")), DOCS / "assets" / "survival.svg")
