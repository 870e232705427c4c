"""The labels of the curves: none on another, none in the title."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from holdfast.eval.report.curves import spread_labels


@given(st.lists(st.floats(0, 100), max_size=15))
def test_labels_stand_apart_in_their_order_under_the_top(ends):
    placed = spread_labels(ends, 5, 108)
    order = sorted(range(len(ends)), key=lambda i: ends[i])
    assert all(placed[b] - placed[a] >= 5 - 1e-6 for a, b in pairwise(order))
    assert all(0 <= height <= 108 for height in placed)


def test_labels_that_are_apart_stay_where_their_lines_end():
    assert spread_labels([40, 10, 100], 5, 108) == [40, 10, 100]
