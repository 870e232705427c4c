"""Measurements of compaction: `run.py` writes rows, `score.py` reads rows, `report/` draws scores.

Start with `run.py`, then `measure.py` (all methods on one window) and `windows.py` (a cut of a session). `rows.py` is
the row and its file, `probes.py` the questions, `metrics.py` the formulas; `text/` asks probes of sessions as text.
"""
