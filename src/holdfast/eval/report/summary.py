"""The page in words: the headline, and the facts of the run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from holdfast.eval.report import numbers
from holdfast.eval.rows import Row
from holdfast.eval.score import RETAINED, Bounds, Score


def headline(scores: Sequence[Score]) -> str:
    """Returns the result in one sentence, from the numbers at the most common ratio."""
    ratio = numbers.common_ratio(scores)
    if ratio is None:
        return "Only the baselines were measured; add a method with --latent."
    measured = _comparable(scores)
    if not measured:
        return f"No share can be stated at {numbers.times(ratio)}: {_first_note(scores)}."
    best = max(measured, key=_share)
    first = f"At {numbers.times(ratio)}, {_keeps(best)} of the answer information"
    rival = _rival(best, measured)
    return f"{first}{f'; {_keeps(rival)}' if rival else ''} ({_count(best)})."


def cost(scores: Sequence[Score]) -> str:
    """Returns the cost of the headline's method in one sentence; empty if there is no such method."""
    measured = _comparable(scores)
    return _cost(max(measured, key=_share)) if measured else ""


def facts(rows: Sequence[Row], scores: Sequence[Score]) -> list[tuple[str, str]]:
    """Returns the facts of the run, as pairs of label and value."""
    transcripts = sorted({row.transcript for row in rows})
    pairs = [
        ("Model", _join_values(f"{row.model} ({row.model_digest.removeprefix('sha256:')[:12]})" for row in rows)),
        ("Numbers in", _join_values(_config(row, "dtype") for row in rows)),
        ("Device", _join_values(_device(row) for row in rows)),
        ("Window", _join_values(f"{_config(row, 'window')} tokens" for row in rows if "window" in row.config)),
        ("Probes", str(len({(row.transcript, row.window, row.probe) for row in rows}))),
        ("Windows", str(len({(row.transcript, row.window) for row in rows}))),
        ("Seed", _join_values(str(row.seed) for row in rows)),
        ("Measured", _dates(rows)),
        ("Holdfast", _join_values(f"{row.version} {row.commit[:12]}".strip() for row in rows)),
        (f"Transcripts ({len(transcripts)})", ", ".join(transcripts)),
    ]
    return [pair for pair in [*pairs, ("Note", " | ".join(notes(scores)))] if pair[1]]


def notes(scores: Sequence[Score]) -> list[str]:
    """Returns each note once, behind the methods and ratios that it is true of."""
    found: dict[str, list[str]] = {}
    for score in scores:
        if score.note:
            ratio = "" if score.ratio is None else f" {numbers.times(score.ratio)}"
            found.setdefault(score.note, []).append(f"{score.method}{ratio}")
    return [f"{', '.join(methods)}: {note}" for note, methods in found.items()]


def _comparable(scores: Sequence[Score]) -> list[Score]:
    ratio = numbers.common_ratio(scores)
    return [s for s in numbers.methods(scores) if s.ratio == ratio and s.retained is not None]


def _share(score: Score) -> float:
    return score.retained or 0.0


def _keeps(score: Score) -> str:
    bounds = _whole_interval(score.retained_ci)
    return f"{score.method} keeps {_whole_percent(score.retained or 0.0)}{bounds and f' {bounds}'}"


def _rival(best: Score, measured: Sequence[Score]) -> Score | None:
    """Returns the score that a reader compares with first: truncation, else the weakest that was measured."""
    others = [score for score in measured if score is not best]
    truncate = [score for score in others if score.method.partition(":")[0] == "truncate"]
    return min(truncate or others, key=_share, default=None)


def _cost(score: Score) -> str:
    base = f" of {numbers.byte_base([score])}" if score.bytes_base else ""
    held = f"{numbers.size(score.bytes)} of KV cache instead of {numbers.size(score.bytes_full)}{base}"
    spent = f"{numbers.seconds(score.seconds_compact)} s on top of a prefill of "
    return (
        f"{score.method} holds {held} for a window, and its compaction takes {spent}"
        f"{numbers.seconds(score.seconds_prefill)} s."
    )


def _first_note(scores: Sequence[Score]) -> str:
    parts = (part for score in scores for part in score.note.split("; "))
    return next((part.removeprefix(RETAINED) for part in parts if part.startswith(RETAINED)), "nothing was measured")


def _count(score: Score) -> str:
    return f"n = {numbers.pluralize(score.n, 'probe')} in {numbers.pluralize(score.n_windows, 'window')}"


def _whole_percent(value: float) -> str:
    """Formats a share in whole per cent, but never as 100 unless it is all."""
    text = f"{100 * value:.0f}"
    return f"{100 * value:.1f} %" if text == "100" and value != 1 else f"{text} %"


def _whole_interval(bounds: Bounds) -> str:
    low, high = bounds
    return "" if low is None or high is None else f"[{100 * low:.0f}, {100 * high:.0f}]"


def _join_values(values: Iterable[str]) -> str:
    return ", ".join(sorted({value for value in values if value}))


def _config(row: Row, key: str) -> str:
    return str(row.config.get(key, ""))


def _device(row: Row) -> str:
    threads = _config(row, "threads")
    return f"{_config(row, 'device')}{f', {threads} threads' if threads else ''}".removeprefix(", ")


def _dates(rows: Sequence[Row]) -> str:
    days = sorted({row.created[:10] for row in rows})
    return days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
