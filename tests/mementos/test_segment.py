"""The segmentation is the best there is, for an objective that no plain dynamic program can maximise."""

import math
from itertools import combinations, pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from holdfast.errors import BadOption
from holdfast.mementos.segment import Shape, objective, segment


def every_segmentation(tokens, shape):
    """All segmentations whose blocks are large enough, or the whole as one block."""
    n = len(tokens)
    for count in range(n):
        for cuts in combinations(range(1, n), count):
            blocks = [(a, b - 1) for a, b in pairwise((0, *cuts, n))]
            if not count or all(sum(tokens[a : b + 1]) >= shape.least for a, b in blocks):
                yield blocks


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 120), st.sampled_from((0.0, 0.5, 1.0, 2.7, 3.0))), min_size=1, max_size=9),
    st.sampled_from((1, 40, 100)),
    st.sampled_from((100, 200, 2000)),
    st.sampled_from((0.0, 0.1, 0.5, 4.0)),
)
def test_no_other_segmentation_is_better(units, least, typical, balance):
    tokens, scores = [size for size, _ in units], [score for _, score in units[1:]]
    shape = Shape(least, typical, balance=balance)
    fewest, most = shape.range(sum(tokens))
    there = list(every_segmentation(tokens, shape))
    fewest = min(fewest, max(map(len, there)))
    best = max(objective(b, tokens, scores, balance) for b in there if fewest <= len(b) <= most)
    assert objective(segment(tokens, scores, shape), tokens, scores, balance) == pytest.approx(best)


def best_of_all_sums(tokens, scores, shape):
    """The best worth, from the smallest sum of squares for each end, number of blocks and sum of scores."""
    least = [{} for _ in range(len(tokens) + 1)]
    least[0][0, 0] = 0
    for end in range(1, len(tokens) + 1):
        gain = scores[end - 1] if end < len(tokens) else 0
        for start in range(end):
            size = sum(tokens[start:end])
            for (blocks, total), squares in least[start].items() if size >= shape.least else ():
                at = blocks + 1, total + gain
                least[end][at] = min(least[end].get(at, math.inf), squares + size**2)
    fewest, most = shape.range(sum(tokens))
    fewest = min(fewest, max(blocks for blocks, _ in least[-1]))
    return max(
        total / max(1, blocks - 1) - shape.balance * math.sqrt(blocks * squares / sum(tokens) ** 2 - 1)
        for (blocks, total), squares in least[-1].items()
        if fewest <= blocks <= most
    )


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from((50, 100)), st.integers(0, 3)), min_size=10, max_size=18),
    st.sampled_from((100, 200, 500)),
    st.sampled_from((0, 3, 4, 6)),
    st.sampled_from((0.0, 0.2, 2.0)),
)
@example([(100, score) for score in (0, 1, 1, 0, 3, 0)], 200, 5, 0.2)  # one price for several numbers of blocks
@example([(100, score) for score in (0, 0, 3, 2, 2, 2)], 200, 4, 0.0)
def test_no_other_is_better_where_many_are_worth_the_same(units, typical, count, balance):
    tokens, scores = [size for size, _ in units], [score for _, score in units[1:]]
    shape = Shape(100, typical, count, count, balance)
    ours = objective(segment(tokens, scores, shape), tokens, scores, balance)
    assert ours == pytest.approx(best_of_all_sums(tokens, scores, shape))


def one_state(tokens, scores, count, balance):
    """The published form: the best prefix by the objective itself, for each end and number of blocks."""
    best = {(0, 0): []}
    for end in range(1, len(tokens) + 1):
        for blocks in range(1, count + 1):
            ways = [best[at, blocks - 1] + [(at, end - 1)] for at in range(end) if (at, blocks - 1) in best]
            if ways:
                best[end, blocks] = max(ways, key=lambda way: objective(way, tokens, scores, balance))
    return best[len(tokens), count]


def test_one_state_for_each_number_of_blocks_is_not_enough():
    tokens, scores, shape = [100, 200, 300, 600, 600], [2.0, 1.0, 1.0, 2.0], Shape(fewest=3, most=3, balance=1.0)
    ours, published = segment(tokens, scores, shape), one_state(tokens, scores, 3, 1.0)
    assert ours == [(0, 2), (3, 3), (4, 4)]
    assert objective(ours, tokens, scores, 1.0) > objective(published, tokens, scores, 1.0) + 0.1


def test_blocks_cover_every_unit_once_and_are_large_enough():
    tokens = [37 + 11 * (n % 17) for n in range(400)]
    blocks = segment(tokens, [float((n * 7) % 4) for n in range(399)], Shape(typical=1500))
    assert [at for first, last in blocks for at in range(first, last + 1)] == list(range(400))
    assert min(sum(tokens[first : last + 1]) for first, last in blocks) >= 200
    assert sum(tokens) / len(blocks) <= 1500


def test_a_unit_longer_than_any_block_is_a_block_of_its_own():
    blocks = segment([50] * 10 + [100_000] + [50] * 10, [1.0] * 20)
    assert (10, 10) in blocks
    assert len(blocks) > 3


@pytest.mark.parametrize(("tokens", "scores"), [([10, 20], []), ([0, 5], [1.0])])
def test_units_and_scores_must_match(tokens, scores):
    with pytest.raises(BadOption, match="one boundary less"):
        segment(tokens, scores)
