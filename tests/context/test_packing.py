"""Ragged heads: nothing is padded, nothing is lost, and joining keeps each head's order."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from holdfast.context.packing import join, pack

D = 4


@st.composite
def layers(draw, heads=3):
    """Keys, values, positions and a mask of one layer."""
    n, seed = draw(st.integers(1, 9)), draw(st.integers(0, 10_000))
    generator = torch.Generator().manual_seed(seed)
    keys, values = (torch.randn(heads, n, D, generator=generator) for _ in range(2))
    return keys, values, torch.arange(float(n)) + seed, torch.rand(heads, n, generator=generator) < 0.5


@given(layers())
def test_each_head_keeps_its_chosen_pairs_in_order(layer):
    keys, values, positions, keep = layer
    slots = pack(keys, values, positions, keep)
    assert slots.lengths == tuple(keep.sum(1).tolist())
    assert len(slots.keys) == len(slots.values) == len(slots.positions) == int(keep.sum())
    for g, (k, v, p, bias) in enumerate(slots.heads()):
        assert torch.equal(k, keys[g][keep[g]])
        assert torch.equal(v, values[g][keep[g]])
        assert torch.equal(p, positions[keep[g]])
        assert bias is None


@given(layers())
def test_keeping_everything_equals_a_mask_of_ones(layer):
    keys, values, positions, keep = layer
    dense, masked = pack(keys, values, positions), pack(keys, values, positions, torch.ones_like(keep))
    assert dense.lengths == masked.lengths
    assert torch.equal(dense.keys, masked.keys)
    assert torch.equal(dense.values, masked.values)
    assert torch.equal(dense.positions, masked.positions)


@given(st.lists(layers(), min_size=1, max_size=4))
def test_joining_puts_the_parts_of_each_head_one_after_another(parts):
    packed = [pack(*part) for part in parts]
    joined = join(packed)
    for g, (k, v, p, _) in enumerate(joined.heads()):
        own = [list(part.heads())[g] for part in packed]
        assert torch.equal(k, torch.cat([o[0] for o in own]))
        assert torch.equal(v, torch.cat([o[1] for o in own]))
        assert torch.equal(p, torch.cat([o[2] for o in own]))
    assert joined.nbytes == sum(part.nbytes for part in packed)


def test_joining_with_a_biased_part_gives_the_others_a_bias_of_zero():
    plain = pack(torch.ones(2, 3, D), torch.ones(2, 3, D), torch.arange(3.0))
    biased = type(plain)(plain.keys, plain.values, plain.positions, torch.arange(6.0), plain.lengths)
    assert join((plain, biased)).bias.tolist() == [0, 0, 0, 0, 1, 2, 0, 0, 0, 3, 4, 5]


def test_heads_of_equal_length_without_bias_are_dense():
    keys, at = torch.ones(2, 3, D), torch.arange(3.0)
    dense = pack(keys, keys, at)
    assert dense.dense
    assert not type(dense)(dense.keys, dense.values, dense.positions, torch.zeros(6), dense.lengths).dense
    assert not pack(keys, keys, at, torch.tensor([[True, True, True], [True, False, True]])).dense


def test_bytes_are_those_of_keys_values_and_bias():
    slots = pack(torch.ones(2, 3, D), torch.ones(2, 3, D), torch.arange(3.0))
    assert slots.nbytes == 2 * 2 * 3 * D * 4


def test_packing_nothing_gives_empty_heads():
    assert pack(torch.ones(2, 0, D), torch.ones(2, 0, D), torch.empty(0)).lengths == (0, 0)
