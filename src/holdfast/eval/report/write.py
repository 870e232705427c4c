"""Writes the report: rows in, one page and its plots out. Needs no model, no network and no clock."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from holdfast.eval.report import drawing, page, plots
from holdfast.eval.rows import Row, read_rows
from holdfast.eval.score import join, score
from holdfast.storage.files import replace


def write_report(
    rows: str | Path | Sequence[Row], out_html: str | Path, *, png_dir: str | Path | None = None
) -> list[Path]:
    """Write the page, and each plot as `<page name>-<plot>.png`; returns what was written, page first."""
    known = read_rows(rows) if isinstance(rows, str | Path) else rows
    out = Path(out_html)
    folder = out.parent if png_dir is None else Path(png_dir)
    joined, scores = join(known), score(known)
    drawn = plots.plots(scores)
    for needed in (out.parent, folder):
        needed.mkdir(parents=True, exist_ok=True)
    replace(out, page.page(joined, scores, drawn).encode())
    return [out, *(drawing.save(plot, folder, out.stem) for plot in drawn)]
