"""Scores for readers: a table for the terminal, and one self-contained HTML page with PNG plots."""

from holdfast.eval.report.lost import fates
from holdfast.eval.report.terminal import table
from holdfast.eval.report.write import write_report

__all__ = ["fates", "table", "write_report"]
