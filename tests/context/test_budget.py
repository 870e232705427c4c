"""The only rounding: downwards, never to nothing, and the same for everyone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.context.budget import Budget, budget_from_ratio
from holdfast.errors import BadOption

counts = st.integers(1, 200_000)
ratios = st.floats(1, 1e6, allow_nan=False)


@pytest.mark.parametrize(
    ("tokens", "ratio", "slots"),
    [(100, 1, 100), (100, 8, 12), (7, 3.2, 2), (10, 3.3333333, 3), (1, 8, 1), (5, 1e300, 1), (1000, 1.0001, 999)],
)
def test_a_ratio_is_rounded_down_to_at_least_one_slot(tokens, ratio, slots):
    assert budget_from_ratio(tokens, ratio).slots == slots


@pytest.mark.parametrize("ratio", [0.99, 0, -8, float("nan"), float("inf"), -float("inf")])
def test_a_senseless_ratio_is_refused(ratio):
    with pytest.raises(BadOption, match="at least 1"):
        budget_from_ratio(100, ratio)


@given(counts, ratios)
def test_what_a_ratio_leaves_is_within_the_ratio(tokens, ratio):
    slots = budget_from_ratio(tokens, ratio).slots
    assert 1 <= slots <= tokens
    assert slots == 1 or slots * ratio <= tokens * (1 + 1e-12)


@given(counts, counts, ratios, ratios)
def test_more_tokens_or_a_lower_ratio_never_leave_fewer_slots(a, b, r, s):
    few, many, low, high = min(a, b), max(a, b), min(r, s), max(r, s)
    assert (
        budget_from_ratio(few, high).slots <= budget_from_ratio(many, high).slots <= budget_from_ratio(many, low).slots
    )


def test_a_budget_counts_pairs_over_all_heads_and_holds_what_fits():
    budget = Budget(12)
    assert budget.pairs(90) == 1080
    assert budget.holds(12)
    assert not budget.holds(13)
