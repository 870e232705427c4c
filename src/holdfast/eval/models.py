"""The rows of several models, each apart, and the rule about rows that hold needles only."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from holdfast.errors import BadInput
from holdfast.eval.rows import Row

NEEDLE = "niah"
"""The beginning of the categories that look for a needle in a haystack."""


class ModelRun(NamedTuple):
    """One model as it was measured."""

    parameters: int
    """0 where they are not known."""
    model: str
    digest: str
    dtype: str
    window: str
    """Tokens."""


def rows_by_model(rows: Iterable[Row]) -> dict[ModelRun, list[Row]]:
    """Returns the rows of each model, the smallest first."""
    parts: dict[ModelRun, list[Row]] = defaultdict(list)
    for row in rows:
        settings = (str(row.config.get(name, "")) for name in ("dtype", "window"))
        parts[ModelRun(_parameters(row), row.model, row.model_digest, *settings)].append(row)
    return dict(sorted(parts.items()))


_SIZE = re.compile(r"(\d+(?:\.\d+)?)([mb])\b", re.IGNORECASE)


def _parameters(row: Row) -> int:
    """Returns the numbers in a row's model; in an old row what its name says."""
    named = _SIZE.search(row.model)
    if row.model_parameters or not named:
        return row.model_parameters
    return round(float(named[1]) * {"m": 1e6, "b": 1e9}[named[2].lower()])


def refuse_needles_alone(rows: Iterable[Row]) -> None:
    """Raises BadInput if all probes look for a needle: such probes do not see losses that others see."""
    categories = {row.category for row in rows}
    if categories and all(name.startswith(NEEDLE) for name in categories):
        raise BadInput(
            f"these rows hold needle probes only ({', '.join(sorted(categories))}), which see few of the losses: "
            "measure other probes into the same file, such as the rest of RULER or questions about sessions"
        )
