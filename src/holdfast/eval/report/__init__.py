"""Scores for readers, from `write.py` on: a table for the terminal, and one self-contained HTML page with PNG plots."""

from holdfast.eval.report.actions_table import actions_table
from holdfast.eval.report.answers_table import answers_table
from holdfast.eval.report.difference_table import difference_table
from holdfast.eval.report.survival_table import survival_table
from holdfast.eval.report.terminal import table
from holdfast.eval.report.write import report_files, write_report

__all__ = [
    "actions_table",
    "answers_table",
    "difference_table",
    "report_files",
    "survival_table",
    "table",
    "write_report",
]
