"""The families of assignments: a file each, with `draw`, and a row here. `checks.py` judges each by its name."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from holdfast.bench.keep.assignment import Assignment
from holdfast.bench.keep.families import configuration, fixtures, half_list, prohibition, signature

FAMILIES: dict[str, Callable[[Random], Assignment]] = {
    "configuration": configuration.draw,
    "signature": signature.draw,
    "fixtures": fixtures.draw,
    "prohibition": prohibition.draw,
    "unfinished_list": half_list.draw,
}
