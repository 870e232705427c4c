"""From rows to scores: one `Score` per (method, ratio), each joined with its two baselines.

Reads rows and nothing else. What it cannot compare (mixed models or windows, a missing baseline) it refuses;
what it cannot compute it leaves null and says why in `note`. Every interval resamples windows, because the probes
of one window share one compaction and err together. No NaN ever leaves this file.
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
from holdfast.eval.metrics import Floats, Indices
from holdfast.eval.rows import FULL, NONE, Row

Bounds = tuple[float | None, float | None]
"""[low, high] of a 95 % bootstrap interval over windows; both null where there is none, as for a single window."""
RETAINED, NEXT_ACTION = "retained: ", "next action: "
"""How a note says which number it explains."""


class CategoryScore(BaseModel):
    """Retained answer information over the probes of one category."""

    model_config = ConfigDict(frozen=True)

    retained: float | None
    retained_ci: Bounds
    n: int
    """Probes."""


class Score(BaseModel):
    """The quality and cost of one method at one ratio: answers over probes, the rest over windows.

    Every interval is over windows, each drawn with all its probes.
    """

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    method: str
    ratio: float | None
    n: int
    """Probes."""
    n_windows: int
    """Windows; several probes may share one. They are what the intervals resample."""
    retained: float | None
    """Share of the nats that the full context supplies to the right answers."""
    retained_ci: Bounds
    forced_choice: float | None
    """Share of probes on which the context favours the answer over the distractor."""
    forced_choice_ci: Bounds
    margin: float | None
    """Mean calibrated margin of answer over distractor (nats per token)."""
    margin_ci: Bounds
    keyword: float | None
    """Share of greedy answers that hold an accepted keyword."""
    keyword_ci: Bounds
    kl: float | None
    """Mean KL(full || compact) on the next turns (nats per token)."""
    kl_ci: Bounds
    top1: float | None
    """Share of next-turn tokens on which both contexts rank the same token first."""
    top1_ci: Bounds
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
    """On how many of the probes the method was measured, where not on all; why a number is null, where one is."""


SAME = ("window", "dtype", "by_turn")  # settings that rows must share to be compared


class JoinedRow(NamedTuple):
    """A row beside the two baseline rows of its probe."""

    row: Row
    none: Row
    full: Row


def score(rows: Iterable[Row]) -> list[Score]:
    """Returns one score per (method, ratio): full, none, then by method and ratio."""
    groups: dict[tuple[str, float | None], list[JoinedRow]] = defaultdict(list)
    everything = join(rows)
    for joined in everything:
        groups[joined.row.method, joined.row.ratio].append(joined)
    probes = len({_probe(joined.row) for joined in everything})
    return [_score(group, probes) for _, group in sorted(groups.items(), key=lambda item: method_order(*item[0]))]


def scores_by_transcript(rows: Iterable[Row]) -> dict[str, list[Score]]:
    """Returns the scores of each transcript on its own, by file name."""
    parts: dict[str, list[Row]] = defaultdict(list)
    for row in _comparable(rows):
        parts[row.transcript].append(row)
    return {name: score(part) for name, part in sorted(parts.items())}


def join(rows: Iterable[Row]) -> list[JoinedRow]:
    """Joins each row with its baselines, in a fixed order; of rows with one key (a resumed run) the last wins."""
    latest = {(*_probe(row), row.method, row.ratio): row for row in _comparable(rows)}
    baselines = {(*_probe(row), row.method): row for row in latest.values() if row.method in (FULL, NONE)}
    joined = [
        JoinedRow(row, _baseline(baselines, row, NONE), _baseline(baselines, row, FULL)) for row in latest.values()
    ]
    return sorted(joined, key=lambda j: (_probe(j.row), method_order(j.row.method, j.row.ratio)))


def method_order(method: str, ratio: float | None) -> tuple[int, str, float]:
    """Returns the sort key of every table: the baselines, then the methods by name and ratio."""
    return ({FULL: 0, NONE: 1}.get(method, 2), method, ratio or 0.0)


def _probe(row: Row) -> tuple[str, str, str]:
    return (row.transcript, row.window, row.probe)


def _window(row: Row) -> tuple[str, str]:
    return (row.transcript, row.window)


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
    _refuse_repeats(kept)
    return kept


def _refuse_repeats(rows: Iterable[Row]) -> None:
    """Raises BadInput for a probe in two windows: it would count twice, and its windows would overlap."""
    windows: dict[tuple[str, str], set[str]] = defaultdict(set)
    for row in rows:
        windows[row.transcript, row.probe].add(row.window)
    for (transcript, probe), found in sorted(windows.items()):
        if len(found) > 1:
            raise BadInput(
                f"probe {probe} of {transcript} stands in {len(found)} windows ({', '.join(sorted(found))}) and would "
                "count as often; measure each sample into a file of its own"
            )


def _refuse_mixture(what: str, values: Iterable[str]) -> None:
    found = sorted(values)
    if len(found) > 1:
        raise BadInput(
            f"the rows mix {len(found)} {what}, whose means cannot be compared: {', '.join(found)}; "
            "score each in a file of its own"
        )


def _score(group: Sequence[JoinedRow], probes: int) -> Score:
    rows = [joined.row for joined in group]
    windows = list({_window(j.row): j for j in group}.values())
    acts = [j for j in windows if None not in {r.next_action_logprob for r in j}]
    answers, answer_note = _retained_score(group, "answer_logprob")
    actions, action_note = _retained_score(acts, "next_action_logprob") if acts else (_UNKNOWN, "")
    calibrated = _margins_over_none(group)
    choice, margin = _mean(group, metrics.choose_answer(calibrated)), _mean(group, calibrated)
    keyword = _UNKNOWN if any(r.keyword is None for r in rows) else _mean(group, _column(rows, "keyword"))
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
        margin=margin.value,
        margin_ci=margin.ci,
        keyword=keyword.value,
        keyword_ci=keyword.ci,
        kl=kl.value,
        kl_ci=kl.ci,
        top1=top1.value,
        top1_ci=top1.ci,
        next_action=actions.value,
        next_action_ci=actions.ci,
        n_next=len(acts),
        by_category=_by_category(group),
        note=_note(len(rows), probes, answer_note, action_note),
        **_costs([joined.row for joined in windows]),
    )


def _note(n: int, probes: int, answers: str, actions: str) -> str:
    partial = f"measured on {n} of {probes} probes" if n < probes else ""
    reasons = (answers and RETAINED + answers, actions and NEXT_ACTION + actions)
    return "; ".join(part for part in (partial, *reasons) if part)


class _Estimate(NamedTuple):
    value: float | None
    ci: Bounds = (None, None)


_UNKNOWN = _Estimate(None)


def _estimate(value: float, top: Floats, bottom: Floats, group: Sequence[JoinedRow]) -> _Estimate:
    low, high = metrics.ratio_interval(top, bottom, _clusters(group))
    return _Estimate(_finite(value), (_finite(low), _finite(high)))


def _clusters(group: Sequence[JoinedRow]) -> Indices:
    """Returns the number of each row's window, from 0 in order of appearance."""
    numbers: dict[tuple[str, str], int] = {}
    return np.array([numbers.setdefault(_window(j.row), len(numbers)) for j in group], dtype=np.int64)


def _mean(group: Sequence[JoinedRow], values: Floats) -> _Estimate:
    return _estimate(float(values.mean()), values, np.ones_like(values), group)


def _retained_score(group: Sequence[JoinedRow], field: str) -> tuple[_Estimate, str]:
    compact, none, full = (_column(rows, field) for rows in zip(*group, strict=True))
    share = metrics.retained_share(compact, none, full)
    return _estimate(share.value, compact - none, full - none, group), share.reason


def _margins_over_none(group: Sequence[JoinedRow]) -> Floats:
    def per_token(rows: Sequence[Row], what: str) -> Floats:
        return _column(rows, f"{what}_logprob") / _column(rows, f"{what}_tokens")

    rows, none, _ = zip(*group, strict=True)
    return metrics.margins(*(per_token(part, what) for part in (rows, none) for what in ("answer", "distractor")))


def _next_turns(windows: Sequence[JoinedRow], field: str, of_full: float) -> _Estimate:
    """Averages over the windows that have next turns; the full context equals itself by definition."""
    if windows[0].row.method == FULL:
        return _Estimate(of_full, (of_full, of_full))
    known = [joined for joined in windows if getattr(joined.row, field) is not None]
    return _mean(known, _column([joined.row for joined in known], field)) if known else _UNKNOWN


def _by_category(group: Sequence[JoinedRow]) -> dict[str, CategoryScore]:
    parts: dict[str, list[JoinedRow]] = defaultdict(list)
    for joined in group:
        parts[joined.row.category].append(joined)
    answers = {name: _retained_score(part, "answer_logprob")[0] for name, part in sorted(parts.items())}
    return {
        name: CategoryScore(retained=found.value, retained_ci=found.ci, n=len(parts[name]))
        for name, found in answers.items()
    }


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
