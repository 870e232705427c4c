"""Positions: moving equals rotating anew, un-rotating inverts, and nothing else is touched."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from holdfast.model.rope import Rope, spread_positions
from tolerance import close

HALF = 8
PLACES = 100_000  # an angle of so much has an error of so many roundings
places = st.floats(0, PLACES, allow_nan=False, width=32)


def rope(scaling=1.0):
    return Rope(1.0 / 10000 ** (torch.arange(HALF) / HALF), scaling)


def vectors(n=5, dim=2 * HALF, dtype=torch.float64):
    return torch.randn(3, n, dim, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)


@given(st.lists(places, min_size=5, max_size=5), st.lists(places, min_size=5, max_size=5))
def test_moving_a_key_equals_rotating_it_at_its_new_position(old, new):
    x, old, new = vectors(), torch.tensor(old), torch.tensor(new)
    there = rope().move(rope().rotate(x, old), old, new)
    assert close(there, rope().rotate(x, new), PLACES)


@given(st.lists(places, min_size=5, max_size=5), st.sampled_from([1.0, 1.3862943611, 0.7]))
def test_unrotating_inverts_rotating(positions, scaling):
    x, at = vectors(), torch.tensor(positions)
    assert close(rope(scaling).unrotate(rope(scaling).rotate(x, at), at), x, PLACES)


def test_rotation_is_the_complex_rotation_of_split_halves():
    x, at = vectors(), torch.tensor([0.0, 1.0, 2.5, 77.0, 4096.0])
    angles = at.double()[:, None] * rope().inv_freq.double()
    turned = torch.complex(x[..., :HALF], x[..., HALF:]) * torch.polar(torch.ones_like(angles), angles)
    want = torch.cat((turned.real, turned.imag), dim=-1)
    assert close(rope().rotate(x, at), want, PLACES)


def test_position_zero_leaves_a_vector_as_it_is():
    x = vectors()
    assert torch.equal(rope().rotate(x, torch.zeros(5)), x)


def test_the_product_of_two_vectors_depends_on_their_distance_alone():
    q, k = vectors(1), vectors(1).flip(-1)
    near = rope().rotate(q, torch.tensor([12.25])) @ rope().rotate(k, torch.tensor([5.25])).mT
    far = rope().rotate(q, torch.tensor([1012.25])) @ rope().rotate(k, torch.tensor([1005.25])).mT
    assert close(near, far, PLACES)


def test_partial_rotary_leaves_the_rest_untouched():
    x, at = vectors(dim=2 * HALF + 6), torch.arange(5.0) + 3
    turned = rope().rotate(x, at)
    assert torch.equal(turned[..., 2 * HALF :], x[..., 2 * HALF :])
    assert torch.equal(turned[..., : 2 * HALF], rope().rotate(x[..., : 2 * HALF], at))


def test_a_yarn_factor_is_divided_out_of_stored_keys():
    x, at = vectors(), torch.arange(5.0) + 9
    stored = rope(1.25).unrotate(1.25 * rope().rotate(x, at), at)
    assert close(stored, x, PLACES)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rotation_keeps_the_dtype(dtype):
    assert rope().rotate(vectors(dtype=dtype), torch.arange(5.0)).dtype == dtype


@pytest.mark.parametrize("family", ["llama", "qwen3", "phi3-partial", "gemma3_text"])
def test_rotation_is_the_one_that_transformers_applies(tiny, family):
    pair = tiny(family)
    decoder = pair.plain.get_decoder()
    kinds = getattr(pair.plain.config, "layer_types", None) or ["full_attention"] * 3
    x = torch.randn(1, 2, 6, 16, generator=torch.Generator().manual_seed(0))
    at = torch.tensor([0.0, 1.0, 5.0, 64.0, 500.0, 3000.0])
    extra = {"layer_type": kinds[1]} if family == "gemma3_text" else {}
    cos, sin = decoder.rotary_emb(x, at[None], **extra)
    from transformers.models.phi3.modeling_phi3 import apply_rotary_pos_emb

    _, want = apply_rotary_pos_emb(x, x, cos, sin)
    assert close(pair.model.family.layers[1].rope.rotate(x, at), want)


@pytest.mark.parametrize(
    ("first", "last", "count", "want"),
    [(0, 9, 1, [9]), (0, 9, 2, [0, 9]), (10, 13, 4, [10, 11, 12, 13]), (4, 9, 3, [4, 6.5, 9]), (5, 5, 1, [5])],
)
def test_spread_lays_positions_evenly_and_ends_at_the_last(first, last, count, want):
    assert spread_positions(first, last, count).tolist() == want
