"""Contexts are values: positions are data and the logical length is kept."""

from __future__ import annotations

import pytest
import torch

from holdfast.context.packing import pack
from holdfast.context.segments import CompactContext, SoftSegment, StateSegment, TokenSegment, tokens
from holdfast.context.surgery import best, best_per_head, moved


def state(last, n=3):
    positions = torch.linspace(0, last, n)
    return StateSegment((pack(torch.ones(2, n, 4), torch.ones(2, n, 4), positions),))


SEGMENTS = {
    "tokens": tokens([5, 6, 7], 8),
    "soft": SoftSegment(torch.ones(2, 4), torch.tensor([3.5, 10.0])),
    "state": state(10.0),
}


@pytest.mark.parametrize("kind", SEGMENTS)
def test_the_next_position_lies_beyond_every_position_held(kind):
    assert CompactContext((SEGMENTS[kind],), 11).next_position == 11
    for too_small in (10, 3, 0, -1):
        with pytest.raises(ValueError, match="not beyond"):
            CompactContext((SEGMENTS[kind],), too_small)


def test_the_next_position_is_checked_over_all_segments():
    with pytest.raises(ValueError, match="last position held, 10"):
        CompactContext((SEGMENTS["state"], tokens([1], 0)), 5)


def test_a_next_position_below_zero_is_refused_for_an_empty_context():
    assert CompactContext((), 0).next_position == 0
    with pytest.raises(ValueError, match="not beyond"):
        CompactContext((), -1)


def test_a_next_position_may_lie_far_beyond():
    assert CompactContext((tokens([1], 0),), 4000).next_position == 4000


def test_a_segments_length_is_what_a_padded_store_would_hold():
    keep = torch.tensor([[True, False, True], [False, False, True]])
    ragged = StateSegment((pack(torch.ones(2, 3, 4), torch.ones(2, 3, 4), torch.arange(3.0), keep),))
    assert (len(SEGMENTS["tokens"]), len(SEGMENTS["soft"]), len(SEGMENTS["state"]), len(ragged)) == (3, 2, 3, 2)
    assert (len(StateSegment(())), StateSegment(()).last_position) == (0, -1.0)


def test_tokens_stand_at_consecutive_positions():
    segment = tokens((9, 8), 40)
    assert isinstance(segment, TokenSegment)
    assert (segment.ids.tolist(), segment.positions.tolist()) == ([9, 8], [40.0, 41.0])


def test_moving_states_shifts_positions_and_nothing_else():
    here = state(10.0)
    there = moved(here, 7)
    assert torch.equal(there.layers[0].positions, here.layers[0].positions + 7)
    assert torch.equal(there.layers[0].keys, here.layers[0].keys)
    assert here.last_position == 10.0


def test_one_threshold_chooses_exactly_as_many_pairs_as_asked():
    scores = {0: torch.tensor([[0.9, 0.1, 0.5], [0.0, 0.0, 0.0]]), 2: torch.tensor([[0.8, 0.7, 0.2], [0.6, 0.3, 0.4]])}
    for pairs in range(13):
        assert sum(int(mask.sum()) for mask in best(scores, pairs).values()) == pairs
    chosen = best(scores, 4)
    assert chosen[0].tolist() == [[True, False, False], [False] * 3]
    assert chosen[2].tolist() == [[True, True, False], [True, False, False]]


def test_ties_go_to_the_lower_layer_head_and_position():
    scores = {1: torch.zeros(2, 3), 3: torch.zeros(2, 3)}
    chosen = best(scores, 4)
    assert chosen[1].tolist() == [[True, True, True], [True, False, False]]
    assert not chosen[3].any()
    assert best_per_head(scores, 2)[3].tolist() == [[True, True, False]] * 2


def test_every_head_gets_the_same_share():
    scores = {0: torch.rand(3, 9, generator=torch.Generator().manual_seed(0)), 1: torch.zeros(3, 9)}
    for layer, mask in best_per_head(scores, 4).items():
        assert mask.sum(1).tolist() == [4, 4, 4]
        assert scores[layer][mask].sum() == pytest.approx(scores[layer].topk(4, dim=1).values.sum())
