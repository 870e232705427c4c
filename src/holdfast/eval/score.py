"""From rows to scores: one `Score` per (method, ratio), each joined with its two baselines.

Reads rows and nothing else. What it cannot compare (mixed models or windows, a missing baseline) it refuses;
what it cannot compute it leaves null and says why in `note`. Every interval resamples windows, because the probes
of one window share one compaction and err together. No NaN ever leaves this file.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict

from holdfast.errors import BadInput
from holdfast.eval import metrics
from holdfast.eval.metrics import Floats, Indices
from holdfast.eval.rows import FULL, NONE, Row

Bounds = tuple[float | None, float | None]
"""[low, high] of a 95 % bootstrap interval over windows; both null where there is none, as for a single window."""
RETAINED, NEXT_ACTION, LATER_ACTION = "retained: ", "next action: ", "later action: "
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
    keyword_kept: float | None
    """Share of them over the probes that the full context answers right."""
    keyword_kept_ci: Bounds
    n_answerable: int
    """Probes that the full context answers right."""
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
    action_tool: float | None
    """Share of windows whose greedy action calls the same tool as the full context's, where the session calls one."""
    action_tool_ci: Bounds
    action_exact: float | None
    """Share of windows whose greedy action is the full context's, arguments included."""
    action_exact_ci: Bounds
    action_f1: float | None
    """Mean F1 of its tokens."""
    action_f1_ci: Bounds
    later_action: float | None
    """Share of the nats that the full context supplies to the recorded action behind three more turns."""
    later_action_ci: Bounds
    n_later: int
    """Windows that have one."""
    later_tool: float | None
    later_tool_ci: Bounds
    later_exact: float | None
    later_exact_ci: Bounds
    later_f1: float | None
    later_f1_ci: Bounds
    tokens_span: float
    slots: float
    """Mean KV slots per layer and head held for the span."""
    bytes_full: float
    """Mean KV bytes of the full window."""
    bytes: float
    """Mean KV bytes really held for the window."""
    bytes_span_full: float
    bytes_span: float
    bytes_stored: float
    """Mean bytes of the span's slots in a file; 0 where it was not measured."""
    bytes_base: str
    """Dtype of the cache that all bytes are counted in."""
    seconds_prefill: float
    seconds_compact: float
    seconds_measure: float
    by_category: dict[str, CategoryScore]
    note: str = ""
    """On how many of the probes the method was measured, where not on all; why a number is null, where one is."""


AGREEMENT = ("tool", "exact", "f1")
"""What is compared of two greedy actions."""
SAME = (
    "window",
    "dtype",
    "by_turn",
    "answer_tokens",
    "action_tokens",
    "action_passes",
)  # settings that rows must share to be compared


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


def window_of(row: Row) -> tuple[str, str]:
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
    kept = [row for row in rows if not row.left_out]
    if not kept:
        raise BadInput("there are no rows to score; measure some first with `holdfast eval run`")
    models = {row.model_digest: f"{row.model} ({row.model_digest[:12]})" for row in kept}
    _refuse_mixture("models", models.values())
    for key in SAME:
        _refuse_mixture(f"values of `{key}`", {json.dumps(row.config.get(key), default=str) for row in kept})
    _refuse_mixture("bases of bytes", {bytes_base(row) for row in kept})
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
    windows = list({window_of(j.row): j for j in group}.values())
    calibrated = margins_over_none(group)
    answers, answer_note = _retained_score(group, "answer_logprob")
    actions, action_note, n_next = _action(windows, "next_action")
    later, later_note, n_later = _action(windows, "later_action")
    answerable = [joined for joined in group if joined.full.keyword]
    estimates: dict[str, _Estimate] = {
        "retained": answers,
        "forced_choice": _mean(group, metrics.choose_answer(calibrated)),
        "margin": _mean(group, calibrated),
        "keyword": _mean_of_known(group, "keyword"),
        "keyword_kept": _mean_of_known(answerable, "keyword"),
        "kl": _next_turns(windows, "kl", 0.0),
        "top1": _next_turns(windows, "top1", 1.0),
        "next_action": actions,
        "later_action": later,
        **{f"action_{kind}": _next_turns(windows, f"next_action_{kind}", 1.0) for kind in AGREEMENT},
        **{f"later_{kind}": _next_turns(windows, f"later_action_{kind}", 1.0) for kind in AGREEMENT},
    }
    return Score(
        method=rows[0].method,
        ratio=rows[0].ratio,
        n=len(rows),
        n_windows=len(windows),
        n_answerable=len(answerable),
        n_next=n_next,
        n_later=n_later,
        by_category=_by_category(group),
        note=_note(len(rows), probes, answer_note, action_note, later_note),
        bytes_base=bytes_base(rows[0]),
        **_costs([joined.row for joined in windows]),
        **_fields(estimates),
    )


def _fields(estimates: Mapping[str, _Estimate]) -> dict[str, Any]:
    values = {name: found.value for name, found in estimates.items()}
    return values | {f"{name}_ci": found.ci for name, found in estimates.items()}


def bytes_base(row: Row) -> str:
    """Returns the dtype of the cache in which a row counts its bytes."""
    return row.bytes_base or str(row.config.get("dtype", ""))


def _note(n: int, probes: int, answers: str, actions: str, later: str) -> str:
    partial = f"measured on {n} of {probes} probes" if n < probes else ""
    reasons = (answers and RETAINED + answers, actions and NEXT_ACTION + actions, later and LATER_ACTION + later)
    return "; ".join(part for part in (partial, *reasons) if part)


class _Estimate(NamedTuple):
    value: float | None
    ci: Bounds = (None, None)


_UNKNOWN = _Estimate(None)


def _estimate(value: float, top: Floats, bottom: Floats, group: Sequence[JoinedRow]) -> _Estimate:
    low, high = metrics.ratio_interval(top, bottom, clusters(group))
    return _Estimate(finite(value), (finite(low), finite(high)))


def clusters(group: Sequence[JoinedRow]) -> Indices:
    """Returns the number of each row's window, from 0 in order of appearance."""
    numbers: dict[tuple[str, str], int] = {}
    return np.array([numbers.setdefault(window_of(j.row), len(numbers)) for j in group], dtype=np.int64)


def _mean(group: Sequence[JoinedRow], values: Floats) -> _Estimate:
    return _estimate(float(values.mean()), values, np.ones_like(values), group)


def _retained_score(group: Sequence[JoinedRow], field: str) -> tuple[_Estimate, str]:
    compact, none, full = (column(rows, field) for rows in zip(*group, strict=True))
    share = metrics.retained_share(compact, none, full)
    return _estimate(share.value, compact - none, full - none, group), share.reason


def margins_over_none(group: Sequence[JoinedRow]) -> Floats:
    def per_token(rows: Sequence[Row], what: str) -> Floats:
        return column(rows, f"{what}_logprob") / column(rows, f"{what}_tokens")

    rows, none, _ = zip(*group, strict=True)
    return metrics.margins(*(per_token(part, what) for part in (rows, none) for what in ("answer", "distractor")))


def _action(windows: Sequence[JoinedRow], name: str) -> tuple[_Estimate, str, int]:
    """Returns the retained information about an action, why there is none, and over how many windows."""
    known = [j for j in windows if None not in {getattr(row, f"{name}_logprob") for row in j}]
    found, reason = _retained_score(known, f"{name}_logprob") if known else (_UNKNOWN, "")
    return found, reason, len(known)


def _next_turns(windows: Sequence[JoinedRow], field: str, of_full: float) -> _Estimate:
    """Averages over the windows that have next turns; the full context equals itself by definition."""
    found = _mean_of_known(windows, field)
    is_full = windows[0].row.method == FULL and (found.value is not None or field in ("kl", "top1"))
    return _Estimate(of_full, (of_full, of_full)) if is_full else found


def _mean_of_known(group: Sequence[JoinedRow], field: str) -> _Estimate:
    """Averages a field over the rows that have it."""
    known = [joined for joined in group if getattr(joined.row, field) is not None]
    return _mean(known, column([joined.row for joined in known], field)) if known else _UNKNOWN


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
    "bytes_stored",
    "seconds_prefill",
    "seconds_compact",
    "seconds_measure",
)


def _costs(rows: Sequence[Row]) -> dict[str, Any]:
    return {field: float(column(rows, field).mean()) for field in _COSTS}


def column(rows: Sequence[Row], field: str) -> Floats:
    return np.array([getattr(row, field) for row in rows], dtype=np.float64)


def finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
