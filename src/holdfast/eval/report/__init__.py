"""Scores for readers: a table for the terminal, and one self-contained HTML page with PNG plots."""

from holdfast.eval.report.lost import fates
from holdfast.eval.report.terminal import table
from holdfast.eval.report.write import report_files, write_report

__all__ = ["fates", "report_files", "table", "write_report"]
