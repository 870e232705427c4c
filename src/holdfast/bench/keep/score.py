"""The scores of conditions: pass rate, share of facts, and paired differences, with intervals over items."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict

from holdfast.bench.keep.conditions import FULL
from holdfast.bench.keep.rows import KeepRow
from holdfast.errors import BadInput, BadOption
from holdfast.eval.metrics import ratio_interval
from holdfast.eval.score import Bounds, finite

GROUPS = ("family", "place")
"""Fields by which items are told apart."""


class Estimate(BaseModel):
    """A mean over items with its interval."""

    model_config = ConfigDict(frozen=True)

    value: float
    ci: Bounds


class KeepScore(BaseModel):
    """One condition over all its items."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    model: str
    size: int
    """Tokens of a session."""
    condition: str
    n: int
    """Items."""
    passed: Estimate
    """Share of items whose program keeps every fact."""
    facts: Estimate
    """Share of facts that the programs keep; every item weighs the same."""
    passed_against: Estimate | None
    """The pass rate less the baseline's, on the items of both; None for the baseline itself."""
    facts_against: Estimate | None
    paired: int
    """Items of both."""
    byte_ratio: float
    """Times fewer KV bytes than the full context in bfloat16."""
    seconds_context: float
    """Median seconds of making the context, beyond the prefill."""
    seconds_prefill: float
    """Median seconds of the prefill that all conditions share."""


def score_groups(rows: Sequence[KeepRow], against: str = FULL, by: str = "") -> dict[str, list[KeepScore]]:
    """Returns the scores for each value of the field `by`, or of all rows under an empty name.

    Raises BadOption for a field that does not group items, BadInput where nothing was measured.
    """
    if by not in ("", *GROUPS):
        raise BadOption(f"rows are grouped by {', '.join(GROUPS)}, got {by!r}")
    if not rows:
        raise BadInput("there are no rows; measure some first with `holdfast bench keep --out FILE`")
    parts: dict[str, list[KeepRow]] = defaultdict(list)
    for row in rows:
        parts[str(getattr(row, by)) if by else ""].append(row)
    return {name: score(part, against) for name, part in sorted(parts.items())}


def score(rows: Iterable[KeepRow], against: str = FULL) -> list[KeepScore]:
    """Returns the scores by model, size and condition. Raises BadInput if `against` was not measured."""
    groups: dict[tuple[str, int], dict[str, dict[str, KeepRow]]] = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        groups[row.model, row.size][row.condition][row.item] = row
    found = []
    for (model, size), conditions in sorted(groups.items(), key=lambda group: (group[0][0], group[0][1])):
        if against not in conditions:
            raise BadInput(
                f"{against!r} was not measured on {model} at {size} tokens; there are: {', '.join(conditions)}"
            )
        base = conditions[against]
        found += [_score(model, size, name, list(mine.values()), base) for name, mine in conditions.items()]
    return found


def _score(model: str, size: int, name: str, rows: Sequence[KeepRow], base: dict[str, KeepRow]) -> KeepScore:
    pairs = [(row, base[row.item]) for row in rows if row.item in base]
    other = pairs and any(row.condition != against.condition for row, against in pairs)
    return KeepScore(
        model=model,
        size=size,
        condition=name,
        n=len(rows),
        passed=_mean([float(row.passed) for row in rows]),
        facts=_mean([share(row) for row in rows]),
        passed_against=_difference(pairs, lambda row: float(row.passed)) if other else None,
        facts_against=_difference(pairs, share) if other else None,
        paired=len(pairs),
        byte_ratio=sum(row.bytes_full for row in rows) / max(1, sum(row.bytes for row in rows)),
        seconds_context=float(np.median([row.seconds_context for row in rows])),
        seconds_prefill=float(np.median([row.seconds_prefill for row in rows])),
    )


def share(row: KeepRow) -> float:
    """Returns the share of an item's facts that the program keeps."""
    return sum(row.facts.values()) / len(row.facts) if row.facts else 0.0


def _difference(pairs: Sequence[tuple[KeepRow, KeepRow]], value: Callable[[KeepRow], float]) -> Estimate:
    return _mean([value(mine) - value(theirs) for mine, theirs in pairs])


def _mean(values: Sequence[float]) -> Estimate:
    known = np.array(values, dtype=np.float64)
    low, high = ratio_interval(known, np.ones(len(known)), np.arange(len(known)))
    return Estimate(value=float(known.mean()), ci=(finite(low), finite(high)))
