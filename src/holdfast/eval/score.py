"""From rows to scores: one `Score` per (method, ratio), each joined with its two baselines.

Reads rows and nothing else. What it cannot compare (mixed models or windows, a missing baseline) it refuses;
what it cannot compute it leaves null and says why in `note`. No NaN ever leaves this file.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict

from holdfast.errors import BadInput
from holdfast.eval import metrics
from holdfast.eval.metrics import Floats, Statistic
from holdfast.eval.rows import FULL, NONE, Row

Bounds = tuple[float | None, float | None]
"""[low, high] of a 95 % bootstrap interval; both null where there is none, as for a single probe."""


class CategoryScore(BaseModel):
    """Retained answer information over the probes of one category."""

    model_config = ConfigDict(frozen=True)

    retained: float | None
    n: int


class Score(BaseModel):
    """What one method kept at one ratio and what that cost: answers over probes, the rest over windows."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    method: str
    ratio: float | None
    n: int
    """Probes."""
    n_windows: int
    """Windows; several probes may share one."""
    retained: float | None
    """Share of the nats that the full context supplies to the right answers."""
    retained_ci: Bounds
    forced_choice: float | None
    """Share of probes on which the context favours the answer over the distractor."""
    forced_choice_ci: Bounds
    margin: float | None
    """Mean calibrated margin of answer over distractor (nats per token)."""
    keyword: float | None
    """Share of greedy answers that hold an accepted keyword."""
    keyword_ci: Bounds
    kl: float | None
    """Mean KL(full || compact) on the next turns (nats per token)."""
    kl_ci: Bounds
    top1: float | None
    """Share of next-turn tokens on which both contexts rank the same token first."""
    next_action: float | None
    """Share of the nats that the full context supplies to the recorded next action."""
    next_action_ci: Bounds
    n_next: int
    """Windows that have a recorded next action."""
    tokens_span: float
    slots: float
    """Mean KV slots per layer and head held for the span."""
    bytes_full: float
    """Mean KV bytes of the full window."""
    bytes: float
    """Mean KV bytes really held for the window."""
    bytes_span_full: float
    bytes_span: float
    seconds_prefill: float
    seconds_compact: float
    by_category: dict[str, CategoryScore]
    note: str = ""
    """Why `retained` or `next_action` is null, where it is."""


SAME = ("window", "dtype", "by_turn")  # settings that rows must share to be compared


class Joined(NamedTuple):
    """A row beside the two baseline rows of its probe."""

    row: Row
    none: Row
    full: Row


def score(rows: Iterable[Row]) -> list[Score]:
    """One score per (method, ratio): full, none, then by method and ratio."""
    groups: dict[tuple[str, float | None], list[Joined]] = defaultdict(list)
    for joined in join(rows):
        groups[joined.row.method, joined.row.ratio].append(joined)
    return [_score(group) for _, group in sorted(groups.items(), key=lambda item: method_order(*item[0]))]


def scores_by_transcript(rows: Iterable[Row]) -> dict[str, list[Score]]:
    """`score` of each transcript on its own, by file name."""
    parts: dict[str, list[Row]] = defaultdict(list)
    for row in _comparable(rows):
        parts[row.transcript].append(row)
    return {name: score(part) for name, part in sorted(parts.items())}


def join(rows: Iterable[Row]) -> list[Joined]:
    """Each row with its baselines, in a fixed order; of rows with one key (a resumed run) the last wins."""
    latest = {(*_probe(row), row.method, row.ratio): row for row in _comparable(rows)}
    baselines = {(*_probe(row), row.method): row for row in latest.values() if row.method in (FULL, NONE)}
    joined = [Joined(row, _baseline(baselines, row, NONE), _baseline(baselines, row, FULL)) for row in latest.values()]
    return sorted(joined, key=lambda j: (_probe(j.row), method_order(j.row.method, j.row.ratio)))


def method_order(method: str, ratio: float | None) -> tuple[int, str, float]:
    """Sort key of every table: the baselines, then the methods by name and ratio."""
    return ({FULL: 0, NONE: 1}.get(method, 2), method, ratio or 0.0)


def _probe(row: Row) -> tuple[str, str, str]:
    return (row.transcript, row.window, row.probe)


def _baseline(baselines: dict[tuple[str, str, str, str], Row], row: Row, method: str) -> Row:
    try:
        return baselines[(*_probe(row), method)]
    except KeyError:
        raise BadInput(
            f"probe {row.probe} (window {row.window} of {row.transcript}) has a `{row.method}` row but no "
            f"`{method}` row to compare it with; run `holdfast eval run --latent {method}` into the same file"
        ) from None


def _comparable(rows: Iterable[Row]) -> list[Row]:
    kept = list(rows)
    if not kept:
        raise BadInput("there are no rows to score; measure some first with `holdfast eval run`")
    models = {row.model_digest: f"{row.model} ({row.model_digest[:12]})" for row in kept}
    _refuse_mixture("models", models.values())
    for key in SAME:
        _refuse_mixture(f"values of `{key}`", {json.dumps(row.config.get(key), default=str) for row in kept})
    return kept


def _refuse_mixture(what: str, values: Iterable[str]) -> None:
    found = sorted(values)
    if len(found) > 1:
        raise BadInput(
            f"the rows mix {len(found)} {what}, whose means cannot be compared: {', '.join(found)}; "
            "score each in a file of its own"
        )


def _score(group: Sequence[Joined]) -> Score:
    rows = [joined.row for joined in group]
    windows = list({(j.row.transcript, j.row.window): j for j in group}.values())
    answers, answer_note = _retained(group, "answer_logprob")
    acts = [j for j in windows if None not in {r.next_action_logprob for r in j}]
    actions, action_note = _retained(acts, "next_action_logprob") if acts else (_UNKNOWN, "")
    calibrated = _calibrated_margins(group)
    choice = _estimate(metrics.mean_statistic((calibrated > 0).astype(np.float64)), len(rows))
    keyword = _estimate(metrics.mean_statistic(_column(rows, "keyword")), len(rows))
    kl, top1 = _next_turns(windows, "kl", 0.0), _next_turns(windows, "top1", 1.0)
    return Score(
        method=rows[0].method,
        ratio=rows[0].ratio,
        n=len(rows),
        n_windows=len(windows),
        retained=answers.value,
        retained_ci=answers.ci,
        forced_choice=choice.value,
        forced_choice_ci=choice.ci,
        margin=_finite(float(calibrated.mean())),
        keyword=keyword.value,
        keyword_ci=keyword.ci,
        kl=kl.value,
        kl_ci=kl.ci,
        top1=top1.value,
        next_action=actions.value,
        next_action_ci=actions.ci,
        n_next=len(acts),
        by_category=_by_category(group),
        note="; ".join(note for note in (answer_note, action_note) if note),
        **_costs([joined.row for joined in windows]),
    )


class _Estimate(NamedTuple):
    value: float | None
    ci: Bounds = (None, None)


_UNKNOWN = _Estimate(None)


def _estimate(statistic: Statistic, n: int) -> _Estimate:
    value = statistic(np.arange(n)[None, :])[0]
    low, high = metrics.bootstrap_ci(statistic, n)
    return _Estimate(_finite(float(value)), (_finite(low), _finite(high)))


def _retained(group: Sequence[Joined], field: str) -> tuple[_Estimate, str]:
    compact, none, full = (_column(rows, field) for rows in zip(*group, strict=True))
    estimate = _estimate(metrics.retained_statistic(compact, none, full), len(group))
    return estimate, metrics.retained(compact, none, full).reason


def _calibrated_margins(group: Sequence[Joined]) -> Floats:
    def per_token(rows: Sequence[Row], what: str) -> Floats:
        return _column(rows, f"{what}_logprob") / _column(rows, f"{what}_tokens")

    rows, none, _ = zip(*group, strict=True)
    return metrics.margins(*(per_token(part, what) for part in (rows, none) for what in ("answer", "distractor")))


def _next_turns(windows: Sequence[Joined], field: str, of_full: float) -> _Estimate:
    """Mean over the windows that have next turns; the full context equals itself by definition."""
    if windows[0].row.method == FULL:
        return _Estimate(of_full, (of_full, of_full))
    rows = [joined.row for joined in windows if getattr(joined.row, field) is not None]
    return _estimate(metrics.mean_statistic(_column(rows, field)), len(rows)) if rows else _UNKNOWN


def _by_category(group: Sequence[Joined]) -> dict[str, CategoryScore]:
    parts: dict[str, list[Joined]] = defaultdict(list)
    for joined in group:
        parts[joined.row.category].append(joined)
    return {
        name: CategoryScore(retained=_finite(_plain_retained(part)), n=len(part))
        for name, part in sorted(parts.items())
    }


def _plain_retained(group: Sequence[Joined]) -> float:
    compact, none, full = (_column(rows, "answer_logprob") for rows in zip(*group, strict=True))
    return metrics.retained(compact, none, full).value


_COSTS = (
    "tokens_span",
    "slots",
    "bytes_full",
    "bytes",
    "bytes_span_full",
    "bytes_span",
    "seconds_prefill",
    "seconds_compact",
)


def _costs(rows: Sequence[Row]) -> dict[str, float]:
    return {field: float(_column(rows, field).mean()) for field in _COSTS}


def _column(rows: Sequence[Row], field: str) -> Floats:
    return np.array([getattr(row, field) for row in rows], dtype=np.float64)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
