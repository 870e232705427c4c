"""Contexts are values: positions are data and the logical length is kept."""

from __future__ import annotations

import pytest
import torch

from holdfast.context.packing import pack
from holdfast.context.segments import CompactContext, SoftSegment, StateSegment, TokenSegment, token_segment
from holdfast.context.surgery import keep_pairs, shift_segment
from holdfast.model.states import States


def state(last, n=3):
    positions = torch.linspace(0, last, n)
    return StateSegment((pack(torch.ones(2, n, 4), torch.ones(2, n, 4), positions),))


SEGMENTS = {
    "tokens": token_segment([5, 6, 7], 8),
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
        CompactContext((SEGMENTS["state"], token_segment([1], 0)), 5)


def test_a_next_position_below_zero_is_refused_for_an_empty_context():
    assert CompactContext((), 0).next_position == 0
    with pytest.raises(ValueError, match="not beyond"):
        CompactContext((), -1)


def test_a_next_position_may_lie_far_beyond():
    assert CompactContext((token_segment([1], 0),), 4000).next_position == 4000


def test_a_segments_length_is_what_a_padded_store_would_hold():
    keep_pairs = torch.tensor([[True, False, True], [False, False, True]])
    ragged = StateSegment((pack(torch.ones(2, 3, 4), torch.ones(2, 3, 4), torch.arange(3.0), keep_pairs),))
    assert (len(SEGMENTS["tokens"]), len(SEGMENTS["soft"]), len(SEGMENTS["state"]), len(ragged)) == (3, 2, 3, 2)
    assert (len(StateSegment(())), StateSegment(()).last_position) == (0, -1.0)


def test_tokens_stand_at_consecutive_positions():
    segment = token_segment((9, 8), 40)
    assert isinstance(segment, TokenSegment)
    assert (segment.ids.tolist(), segment.positions.tolist()) == ([9, 8], [40.0, 41.0])


def test_moving_states_shifts_positions_and_nothing_else():
    here = state(10.0)
    there = shift_segment(here, 7)
    assert torch.equal(there.layers[0].positions, here.layers[0].positions + 7)
    assert torch.equal(there.layers[0].keys, here.layers[0].keys)
    assert here.last_position == 10.0


def test_every_slot_that_stays_remembers_its_score():
    noise = torch.Generator().manual_seed(0)
    keys = tuple(torch.rand(2, n, 4, generator=noise) for n in (5, 3, 5))
    states = States(keys, keys, torch.arange(10.0, 15.0), lambda: torch.zeros(5), torch.zeros(5, 8))
    scores = {layer: torch.rand(2, 5, generator=noise) for layer in (0, 2)}
    chosen = {0: scores[0] > 0.5, 2: scores[2] > 0.2}
    segment = keep_pairs(states, [chosen[0], None, chosen[2]], scores=scores)
    assert [len(s) for s in segment.scores] == [int(chosen[0].sum()), 0, int(chosen[2].sum())]
    for layer in (0, 2):
        slots = segment.layers[layer]
        owner = [g for g, n in enumerate(slots.lengths) for _ in range(n)]
        for slot, (g, position) in enumerate(zip(owner, slots.positions.tolist(), strict=True)):
            assert segment.scores[layer][slot] == scores[layer][g, int(position) - 10]
    assert keep_pairs(states, [chosen[0], None, chosen[2]]).scores == ()
    assert segment.layers[1].lengths == (3, 3)
    assert segment.layers[1].positions.tolist() == [12.0, 13.0, 14.0] * 2
