"""The only rounding: downwards, never to nothing, and the same for everyone."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.context.budget import Budget, from_bytes, from_ratio
from holdfast.errors import BadOption

counts = st.integers(1, 200_000)
ratios = st.floats(1, 1e6, allow_nan=False)


@pytest.mark.parametrize(
    ("tokens", "ratio", "slots"),
    [(100, 1, 100), (100, 8, 12), (7, 3.2, 2), (10, 3.3333333, 3), (1, 8, 1), (5, 1e300, 1), (1000, 1.0001, 999)],
)
def test_a_ratio_is_rounded_down_to_at_least_one_slot(tokens, ratio, slots):
    assert from_ratio(tokens, ratio).slots == slots


@pytest.mark.parametrize("ratio", [0.99, 0, -8, float("nan"), float("inf"), -float("inf")])
def test_a_senseless_ratio_is_refused(ratio):
    with pytest.raises(BadOption, match="at least 1"):
        from_ratio(100, ratio)


@settings(derandomize=True, deadline=None, max_examples=50)
@given(counts, ratios)
def test_what_a_ratio_leaves_is_within_the_ratio(tokens, ratio):
    slots = from_ratio(tokens, ratio).slots
    assert 1 <= slots <= tokens
    assert slots == 1 or slots * ratio <= tokens * (1 + 1e-12)


@settings(derandomize=True, deadline=None, max_examples=50)
@given(counts, counts, ratios, ratios)
def test_more_tokens_or_a_lower_ratio_never_leave_fewer_slots(a, b, r, s):
    few, many, low, high = min(a, b), max(a, b), min(r, s), max(r, s)
    assert from_ratio(few, high).slots <= from_ratio(many, high).slots <= from_ratio(many, low).slots


@settings(derandomize=True, deadline=None, max_examples=50)
@given(st.integers(1, 10**9), st.integers(1, 10**9), st.integers(1, 4096), st.integers(1, 512))
def test_slots_from_bytes_fit_the_bytes_and_grow_with_them(a, b, pair, heads):
    few, many = min(a, b), max(a, b)
    if few < pair * heads:
        with pytest.raises(BadOption, match="hold no slot"):
            from_bytes(few, pair, heads)
        return
    slots = from_bytes(few, pair, heads).slots
    assert slots * pair * heads <= few < (slots + 1) * pair * heads
    assert slots <= from_bytes(many, pair, heads).slots


def test_a_budget_counts_pairs_over_all_heads_and_holds_what_fits():
    budget = Budget(12)
    assert budget.pairs(90) == 1080
    assert budget.holds(12)
    assert not budget.holds(13)
