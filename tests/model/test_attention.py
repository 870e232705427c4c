"""The attention over slots, held against explicit sums over single heads and queries."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import pytest
import torch

from holdfast.context.packing import join, pack
from holdfast.model import attention
from holdfast.model.attention import Slots, readable, tail_mask

B, H, G, Q, T, TAIL, D = 2, 4, 2, 3, 7, 5, 8
SCALE = D**-0.5


@dataclass
class Layer:
    slots: Slots | None
    positions: torch.Tensor
    valid: torch.Tensor | None = None


def noise(*shape, seed=0):
    return 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def q():
    return noise(B, H, Q, D)


@pytest.fixture
def tail():
    return noise(B, G, TAIL, D, seed=1), noise(B, G, TAIL, D, seed=2)


@pytest.fixture
def slots():
    return pack(noise(G, T, D, seed=3), noise(G, T, D, seed=4), torch.arange(float(T)))


def held(slots, valid=None):
    return Layer(slots, (torch.arange(float(TAIL)) + T).expand(B, -1), valid)


def by_hand(q, tail, layer, window=None):
    """One query of one head at a time, in float64."""
    out = torch.zeros_like(q)
    heads = list(layer.slots.heads())
    for b in range(q.shape[0]):
        for h in range(H):
            g = h // (H // G)
            keys, values, positions, bias = heads[g]
            for i in range(Q):
                order = TAIL - Q + i
                at = layer.positions[b, order]
                see = [j for j in range(order + 1) if layer.valid is None or layer.valid[b, j] or j == order]
                see = [j for j in see if window is None or layer.positions[b, j] > at - window]
                own = [j for j in range(len(keys)) if window is None or positions[j] > at - window]
                all_k = torch.cat((keys[own], tail[0][b, g, see])).double()
                all_v = torch.cat((values[own], tail[1][b, g, see])).double()
                extra = torch.zeros(len(keys)) if bias is None else bias
                logits = all_k @ q[b, h, i].double() * SCALE + torch.cat((extra[own], torch.zeros(len(see)))).double()
                out[b, h, i] = (logits.softmax(0) @ all_v).float()
    return out


def run(q, tail, layer, window=None, observe=None):
    return readable(q, *tail, layer, SCALE, window, observe)


def test_uniform_heads_without_bias_equal_stock_attention(q, tail, slots):
    keys = torch.cat((slots.keys.view(1, G, T, D).expand(B, -1, -1, -1), tail[0]), dim=2)
    values = torch.cat((slots.values.view(1, G, T, D).expand(B, -1, -1, -1), tail[1]), dim=2)
    mask = torch.ones(Q, T + TAIL, dtype=torch.bool).tril(T + TAIL - Q)
    want = torch.nn.functional.scaled_dot_product_attention(q, keys, values, mask, scale=SCALE, enable_gqa=True)
    assert torch.allclose(run(q, tail, held(slots)), want, atol=1e-5)


def test_ragged_heads_with_bias_equal_a_computation_by_hand(q, tail):
    keep = torch.rand(G, T, generator=torch.Generator().manual_seed(5)) < torch.tensor([[0.3], [0.9]])
    ragged = pack(noise(G, T, D, seed=3), noise(G, T, D, seed=4), torch.arange(float(T)), keep)
    assert len(set(ragged.lengths)) == 2
    layer = held(replace(ragged, bias=noise(sum(ragged.lengths), seed=6)))
    assert torch.allclose(run(q, tail, layer), by_hand(q, tail, layer), atol=1e-5)


def test_a_head_without_slots_attends_to_the_tail_alone(q, tail, slots):
    keep = torch.zeros(G, T, dtype=torch.bool)
    keep[1] = True
    layer = held(pack(slots.keys.view(G, T, D), slots.values.view(G, T, D), slots.positions[:T], keep))
    assert layer.slots.lengths == (0, T)
    assert torch.allclose(run(q, tail, layer), by_hand(q, tail, layer), atol=1e-5)


def test_a_bias_of_log_two_equals_the_slot_twice(q, tail, slots):
    bias = torch.zeros(G * T)
    bias[[2, T + 2]] = math.log(2)
    keys, values = slots.keys.view(G, T, D), slots.values.view(G, T, D)
    twice = pack(
        torch.cat((keys, keys[:, 2:3]), dim=1), torch.cat((values, values[:, 2:3]), dim=1), torch.arange(T + 1.0)
    )
    once = run(q, tail, held(replace(slots, bias=bias)))
    assert torch.allclose(once, run(q, tail, held(twice)), atol=1e-5)
    assert not torch.allclose(once, run(q, tail, held(slots)), atol=1e-2)


@pytest.mark.parametrize("window", [2, 4, 7, 100])
def test_a_sliding_window_masks_by_position(q, tail, slots, window):
    layer = held(slots)
    assert torch.allclose(run(q, tail, layer, window), by_hand(q, tail, layer, window), atol=1e-5)


def test_a_sliding_window_counts_positions_not_entries(q, tail, slots):
    apart = replace(held(slots), positions=torch.tensor([[20.0, 30, 31, 50, 51]]).expand(B, -1))
    assert torch.allclose(run(q, tail, apart, 25), by_hand(q, tail, apart, 25), atol=1e-5)


def test_padding_on_the_left_is_not_seen(q, tail, slots):
    valid = torch.ones(B, TAIL, dtype=torch.bool)
    valid[0, :2] = False
    layer = held(slots, valid)
    assert torch.allclose(run(q, tail, layer), by_hand(q, tail, layer), atol=1e-5)


def test_a_padded_query_stays_finite(q, tail, slots):
    valid = torch.ones(B, TAIL, dtype=torch.bool)
    valid[0, :4] = False
    assert torch.isfinite(run(q, tail, held(slots, valid))).all()
    none = held(pack(noise(G, 0, D), noise(G, 0, D), torch.empty(0)), valid)
    assert torch.isfinite(run(q, tail, none)).all()


def test_an_observer_sees_what_the_slots_receive(q, tail, slots):
    seen = {}
    run(q, tail, held(slots), observe=lambda g, p: seen.update({g: p}))
    assert set(seen) == set(range(G))
    for p in seen.values():
        assert p.shape == (B, H // G, Q, T)
        assert (p >= 0).all()
        assert (p.sum(-1) <= 1 + 1e-6).all()


def test_what_an_observer_sees_sums_to_one_when_there_is_nothing_else(q, slots):
    # the only tail entry is the query's own, far below every slot
    one = q[:, :, :1]
    keys = -100 * one[:, ::2]
    seen = []
    layer = Layer(slots, torch.full((B, 1), float(T)))
    readable(one, keys, torch.zeros_like(keys), layer, SCALE, None, lambda g, p: seen.append(p[:, 0]))
    assert all(torch.allclose(p.sum(-1), torch.ones(B, 1), atol=1e-5) for p in seen)


def test_many_queries_are_served_in_bounded_memory_with_the_same_result():
    """As many queries as need several steps: each step must be masked and observed as its own rows."""
    n, queries = 2048, 4096
    big = pack(noise(1, n, D, seed=1), noise(1, n, D, seed=2), torch.arange(float(n)))
    q, k, v = (noise(1, 1, queries, D, seed=s) for s in (3, 4, 5))
    layer = Layer(big, (torch.arange(float(queries)) + n)[None])
    assert queries * (n + queries) > attention.LOGITS_AT_ONCE
    sizes = []
    got = readable(q, k, v, layer, SCALE, None, lambda g, p: sizes.append(p.shape[2]))
    mask = torch.ones(queries, n + queries, dtype=torch.bool).tril(n)
    keys, values = torch.cat((big.keys[None, None], k), 2), torch.cat((big.values[None, None], v), 2)
    want = torch.nn.functional.scaled_dot_product_attention(q, keys, values, mask, scale=SCALE)
    assert len(sizes) > 1
    assert sum(sizes) == queries
    assert torch.allclose(got, want, atol=1e-4)


def test_joined_slots_equal_one_longer_set(q, tail, slots):
    more = pack(noise(G, 4, D, seed=8), noise(G, 4, D, seed=9), torch.arange(4.0))
    both = pack(
        torch.cat((slots.keys.view(G, T, D), more.keys.view(G, 4, D)), dim=1),
        torch.cat((slots.values.view(G, T, D), more.values.view(G, 4, D)), dim=1),
        torch.cat((slots.positions[:T], more.positions[:4])),
    )
    assert torch.equal(run(q, tail, held(join((slots, more)))), run(q, tail, held(both)))


@pytest.mark.parametrize("queries", [1, TAIL])
def test_plain_causal_attention_needs_no_mask(queries, slots):
    assert tail_mask(held(slots), queries, None) is None
    assert tail_mask(held(slots), queries, 100) is None


def test_a_model_used_directly_still_works_as_before(two, ids):
    text = ids(30)
    with torch.no_grad():
        assert torch.equal(two.model.hf(text[None]).logits, two.plain(text[None]).logits)
