"""Writes the report: rows in, one page and its plots out. Needs no model, no network and no clock."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from holdfast.eval.differences import PairedScore, score_pairs
from holdfast.eval.models import refuse_needles_alone, rows_by_model
from holdfast.eval.report import models_page, page, plots
from holdfast.eval.report.drawing import Plot
from holdfast.eval.rows import Row, read_rows
from holdfast.eval.score import join, score
from holdfast.storage.files import replace

USUAL = "truncate"
"""The method that others are compared with where none is named and this one was measured."""


def write_report(
    rows: str | Path | Sequence[Row], out_html: str | Path, *, png_dir: str | Path | None = None, against: str = ""
) -> list[Path]:
    """Writes the page, and each plot as `<page name>-<plot>.png`, over older ones; returns the paths, page first."""
    files = report_files(rows, out_html, png_dir=png_dir, against=against)
    for path, data in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        replace(path, data)
    return list(files)


def report_files(
    rows: str | Path | Sequence[Row], out_html: str | Path, *, png_dir: str | Path | None = None, against: str = ""
) -> dict[Path, bytes]:
    """Returns the bytes of the page, which comes first, and of each plot, by path.

    Rows of several models make a page that sets them side by side. Methods are compared with `against`. Raises BadInput
    for rows that cannot be compared, or of needle probes alone.
    """
    known = read_rows(rows) if isinstance(rows, str | Path) else rows
    refuse_needles_alone(known)
    out = Path(out_html)
    folder = out.parent if png_dir is None else Path(png_dir)
    html, drawn = _several(known, against) if len(rows_by_model(known)) > 1 else _one(known, against)
    pngs = {folder / f"{out.stem}-{plot.name}.png": plot.png for plot in drawn}
    return {out: html.encode(), **pngs}


def _one(rows: Sequence[Row], against: str) -> tuple[str, list[Plot]]:
    joined, scores = join(rows), score(rows)
    drawn = plots.plots(scores)
    return page.page(joined, scores, drawn, _compare(rows, against)), drawn


def _several(rows: Sequence[Row], against: str) -> tuple[str, list[Plot]]:
    by_model = rows_by_model(rows)
    scores = {run: score(part) for run, part in by_model.items()}
    found = {run: _compare(part, against) for run, part in by_model.items()}
    drawn = models_page.trend(scores)
    return models_page.models_page(by_model, scores, found, drawn), drawn


def _compare(rows: Sequence[Row], against: str) -> list[PairedScore]:
    """Returns the differences to the baseline that is named, or to truncation if others were measured beside it."""
    others = {row.method for row in rows} - {"full", "none", USUAL}
    if against:
        return score_pairs(rows, against)
    return score_pairs(rows, USUAL) if others and any(row.method == USUAL for row in rows) else []
