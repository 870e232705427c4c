"""Writes the report: rows in, one page and its plots out. Needs no model, no network and no clock."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from holdfast.eval.report import page, plots
from holdfast.eval.rows import Row, read_rows
from holdfast.eval.score import join, score
from holdfast.storage.files import replace


def write_report(
    rows: str | Path | Sequence[Row], out_html: str | Path, *, png_dir: str | Path | None = None
) -> list[Path]:
    """Writes the page, and each plot as `<page name>-<plot>.png`, over older ones; returns the paths, page first."""
    files = report_files(rows, out_html, png_dir=png_dir)
    for path, data in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        replace(path, data)
    return list(files)


def report_files(
    rows: str | Path | Sequence[Row], out_html: str | Path, *, png_dir: str | Path | None = None
) -> dict[Path, bytes]:
    """Returns the bytes of the page, which comes first, and of each plot, by path."""
    known = read_rows(rows) if isinstance(rows, str | Path) else rows
    out = Path(out_html)
    folder = out.parent if png_dir is None else Path(png_dir)
    joined, scores = join(known), score(known)
    drawn = plots.plots(scores)
    pngs = {folder / f"{out.stem}-{plot.name}.png": plot.png for plot in drawn}
    return {out: page.page(joined, scores, drawn).encode(), **pngs}
