"""Each method beside a named baseline on the same probes and windows: differences, and in how many windows it is ahead.

Two methods share windows, so what a window is like cancels out: a paired difference has a narrower interval than two
scores have apart, and is what tells methods apart. Intervals resample windows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict

from holdfast.errors import BadInput
from holdfast.eval import metrics
from holdfast.eval.metrics import Floats
from holdfast.eval.rows import FULL, NONE, Row
from holdfast.eval.score import (
    AGREEMENT,
    Bounds,
    JoinedRow,
    clusters,
    column,
    finite,
    join,
    margins_over_none,
    method_order,
    window_of,
)

SAME = 1e-9
"""A window whose difference is smaller counts for neither method."""


class Difference(BaseModel):
    """The difference of two methods in one measure."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    value: float | None
    """The method's share less the baseline's."""
    ci: Bounds
    better: int
    """Windows in which the method is ahead."""
    worse: int
    """Windows in which the baseline is ahead."""
    n: int
    """Probes, or windows for a measure of windows."""
    n_windows: int


class PairedScore(BaseModel):
    """A method against a baseline at the same ratio, over the probes that both were measured on."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    method: str
    against: str
    ratio: float | None
    measures: dict[str, Difference]
    """By name of the measure, as in `Score`."""
    by_category: dict[str, Difference]
    """Of the retained answer information."""


class Pair(NamedTuple):
    """One probe's rows of both methods."""

    ours: JoinedRow
    theirs: JoinedRow


def score_pairs(rows: Iterable[Row], against: str) -> list[PairedScore]:
    """Returns each method's differences to `against`. Raises BadInput if that was not measured beside any."""
    groups: dict[tuple[str, float | None], dict[tuple[str, str, str], JoinedRow]] = defaultdict(dict)
    for joined in join(rows):
        row = joined.row
        groups[row.method, row.ratio][row.transcript, row.window, row.probe] = joined
    found = []
    for method, ratio in sorted(groups, key=lambda key: method_order(*key)):
        base = groups.get((against, {FULL: 1.0, NONE: None}.get(against, ratio)), {})
        mine = groups[method, ratio]
        pairs = [Pair(mine[place], base[place]) for place in mine if place in base]
        if pairs and method not in (against, FULL, NONE):
            found.append(_score(pairs, against))
    if not found:
        named = ", ".join(sorted({method for method, _ in groups}))
        raise BadInput(f"no method was measured beside {against!r} at the same ratio; these rows hold: {named}")
    return found


def _score(pairs: Sequence[Pair], against: str) -> PairedScore:
    windows = list({window_of(pair.ours.row): pair for pair in pairs}.values())
    measures = {
        "retained": _information(pairs, "answer_logprob"),
        "forced_choice": _difference(pairs, _choice),
        "keyword": _field(pairs, "keyword"),
        "next_action": _information(windows, "next_action_logprob"),
        "later_action": _information(windows, "later_action_logprob"),
        **{f"action_{kind}": _field(windows, f"next_action_{kind}") for kind in AGREEMENT},
        **{f"later_{kind}": _field(windows, f"later_action_{kind}") for kind in AGREEMENT},
    }
    parts: dict[str, list[Pair]] = defaultdict(list)
    for pair in pairs:
        parts[pair.ours.row.category].append(pair)
    categories = {name: _information(part, "answer_logprob") for name, part in sorted(parts.items())}
    return PairedScore(
        method=pairs[0].ours.row.method,
        against=against,
        ratio=pairs[0].ours.row.ratio,
        measures={name: found for name, found in measures.items() if found},
        by_category={name: found for name, found in categories.items() if found},
    )


def _information(pairs: Sequence[Pair], field: str) -> Difference | None:
    """Compares the shares of the nats that the full context supplies."""
    known = [p for p in pairs if None not in {getattr(r, field) for r in (*p.ours, p.theirs.row)}]
    if not known:
        return None
    ours, theirs, none, full = (
        column(rows, field)
        for rows in zip(*((p.ours.row, p.theirs.row, p.ours.none, p.ours.full) for p in known), strict=True)
    )
    return _compare(known, ours - theirs, full - none)


def _field(pairs: Sequence[Pair], field: str) -> Difference | None:
    known = [p for p in pairs if None not in {getattr(p.ours.row, field), getattr(p.theirs.row, field)}]
    return _difference(known, lambda side: column([joined.row for joined in side], field)) if known else None


def _choice(side: Sequence[JoinedRow]) -> Floats:
    return metrics.choose_answer(margins_over_none(side))


def _difference(pairs: Sequence[Pair], values: Callable[[Sequence[JoinedRow]], Floats]) -> Difference:
    ours, theirs = (values(side) for side in zip(*pairs, strict=True))
    return _compare(pairs, ours - theirs, np.ones(len(pairs)))


def _compare(pairs: Sequence[Pair], top: Floats, bottom: Floats) -> Difference:
    """Returns sum(top) / sum(bottom), its interval, and the signs of its windows."""
    places = clusters([pair.ours for pair in pairs])
    sums = np.bincount(places, weights=top)
    total = float(bottom.sum())
    low, high = metrics.ratio_interval(top, bottom, places)
    return Difference(
        value=float(top.sum()) / total if total > 0 else None,
        ci=(finite(low), finite(high)),
        better=int((sums > SAME).sum()),
        worse=int((sums < -SAME).sum()),
        n=len(pairs),
        n_windows=len(sums),
    )
