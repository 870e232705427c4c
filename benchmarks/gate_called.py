"""Precision and recall of the gate over the probes that failed: gate_called.py ROWS…

A probe failed where compaction took more than half of the nats that the full context supplies to its answer (probes to
which it supplies less than one are left out). Precision: of those called lost, how many failed. Recall: of those that
failed, how many were called lost. Intervals resample windows.
"""

from __future__ import annotations

import sys
from collections import defaultdict

import numpy as np

from holdfast.eval.rows import Row, read_rows
from holdfast.eval.score import join

SUPPLIED = 1.0  # nats
DRAWS = 2000


def main(paths: list[str]) -> None:
    joined = [j for path in paths for j in join(read_rows(path)) if j.row.gate_lost is not None]
    table: dict[tuple[str, float | None], list[tuple[Row, bool]]] = defaultdict(list)
    for j in joined:
        supplied = j.full.answer_logprob - j.none.answer_logprob
        if supplied >= SUPPLIED:
            fell = j.row.answer_logprob - j.none.answer_logprob < supplied / 2
            table[j.row.method, j.row.ratio].append((j.row, fell))
            table[j.row.method, None].append((j.row, fell))
    print(f"{'method':<34} {'ratio':>6} {'n':>4} {'failed':>7} {'called':>7}   precision            recall")
    for (method, ratio), found in table.items():
        failed = np.array([f for _, f in found])
        called = np.array([bool(r.gate_lost) for r, _ in found])
        windows = [f"{r.transcript} {r.window}" for r, _ in found]
        both = failed & called
        times = "all" if ratio is None else f"{ratio:g}x"
        label = f"{method:<34} {times:>6} {len(found):>4} {failed.sum():>7} {called.sum():>7}"
        print(label, "  ", share(both, called, windows), "", share(both, failed, windows))


def share(top: np.ndarray, bottom: np.ndarray, windows: list[str]) -> str:
    """Returns a share with its 95 % interval over windows, as text."""
    if not bottom.any():
        return "-".ljust(18)
    names = sorted(set(windows))
    per = np.array([[top[[w == n for w in windows]].sum(), bottom[[w == n for w in windows]].sum()] for n in names])
    drawn = per[np.random.default_rng(0).integers(0, len(names), (DRAWS, len(names)))].sum(1)
    drawn = drawn[drawn[:, 1] > 0]
    low, high = np.percentile(drawn[:, 0] / drawn[:, 1], [2.5, 97.5])
    return f"{top.sum() / bottom.sum():.2f} [{low:.2f}, {high:.2f}]".ljust(18)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("gate_called.py: give one or more files of rows that were measured with METHOD+gate")
    main(sys.argv[1:])
