"""Formats of numbers, for the terminal and the page alike. A number that is not known is a dash."""

from __future__ import annotations

from collections.abc import Sequence

from holdfast.eval.score import Bounds, Score

UNKNOWN = "\N{EN DASH}"
FEW = 10
"""Fewer windows than this make an interval that deserves a warning."""


def percent(value: float | None) -> str:
    return UNKNOWN if value is None else f"{_no_minus_zero(100 * value, 1)} %"


def percent_interval(bounds: Bounds) -> str:
    low, high = bounds
    if low is None or high is None:
        return ""
    return f"[{_no_minus_zero(100 * low, 1)}, {_no_minus_zero(100 * high, 1)}]"


def number(value: float | None, digits: int = 3) -> str:
    return UNKNOWN if value is None else _no_minus_zero(value, digits)


def interval(bounds: Bounds, digits: int = 3) -> str:
    low, high = bounds
    return "" if low is None or high is None else f"[{number(low, digits)}, {number(high, digits)}]"


def times(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.3g}\N{MULTIPLICATION SIGN}"


def seconds(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1f}"


def pluralize(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def size(count: float) -> str:
    """Formats bytes in powers of 1024."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.3g} {unit}" if count < 1000 else f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.3g} GiB"


def byte_ratio(score: Score) -> float | None:
    """Returns how many times fewer KV bytes are held for the whole window."""
    return score.bytes_full / score.bytes if score.bytes else None


def byte_base(scores: Sequence[Score]) -> str:
    """Returns the name of the cache that bytes are stated against."""
    bases = sorted({score.bytes_base for score in scores if score.bytes_base})
    return f"a {' or '.join(bases)} cache" if bases else "the full cache"


def span_ratio(score: Score) -> float | None:
    """Returns how many times fewer KV bytes are held for the span alone, which a method is asked to shrink."""
    return score.bytes_span_full / score.bytes_span if score.bytes_span else None


def file_ratio(score: Score) -> float | None:
    """Returns how many times fewer bytes a file holds for the span than the full cache does in memory."""
    return score.bytes_span_full / score.bytes_stored if score.bytes_stored else None


def common_ratio(scores: Sequence[Score]) -> float | None:
    """Returns the ratio at which most methods were measured; of several, the one nearest to 8."""
    counts: dict[float, int] = {}
    for score in methods(scores):
        assert score.ratio is not None  # only `none` has no ratio
        counts[score.ratio] = counts.get(score.ratio, 0) + 1
    return max(counts, key=lambda ratio: (counts[ratio], -abs(ratio - 8)), default=None)


def methods(scores: Sequence[Score]) -> list[Score]:
    """Returns the scores without those of `full` and `none`."""
    return [score for score in scores if score.method not in ("full", "none")]


def _no_minus_zero(value: float, digits: int) -> str:
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text
