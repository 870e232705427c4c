"""The attention over slots, held against explicit sums over single heads and queries in float64."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from holdfast.context.packing import join, pack
from holdfast.model import attention
from holdfast.model.attention import Pass, Slots, attend_merged, attend_reference, tail_mask
from tolerance import close, near, tolerance

B, H, G, Q, T, TAIL, D = 2, 4, 2, 3, 7, 5, 8
KEYS = T + TAIL
SCALE = D**-0.5
PATHS = (attend_reference, attend_merged)
LAYOUTS = ("even", "ragged", "an empty head", "biased", "even but biased", "one slot", "empty", "none")


@dataclass
class Layer:
    slots: Slots | None
    positions: torch.Tensor
    valid: torch.Tensor | None = None
    quantized: tuple = ()


def noise(*shape, seed=0):
    return 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=PATHS, ids=lambda path: path.__name__)
def attend(request):
    """Both paths in turn: the reference and the fast one."""
    return request.param


@pytest.fixture
def q():
    return noise(B, H, Q, D)


@pytest.fixture
def tail():
    return noise(B, G, TAIL, D, seed=1), noise(B, G, TAIL, D, seed=2)


@pytest.fixture
def slots():
    return even()


def even(kv_heads=G, count=T):
    keys, values = noise(kv_heads, count, D, seed=3), noise(kv_heads, count, D, seed=4)
    return pack(keys, values, torch.arange(float(count)))


def ragged(*lengths, biased=False):
    """Heads that keep the given numbers of the same seven slots."""
    keep = torch.arange(T)[None] < torch.tensor(lengths)[:, None]
    n = len(lengths)
    packed = pack(noise(n, T, D, seed=3), noise(n, T, D, seed=4), torch.arange(float(T)), keep)
    return replace(packed, bias=noise(sum(lengths), seed=6)) if biased else packed


def layout(name):
    return {
        "even": even(),
        "ragged": ragged(2, 6),
        "an empty head": ragged(0, 5),
        "biased": ragged(6, 3, biased=True),
        "even but biased": ragged(4, 4, biased=True),
        "one slot": ragged(1, 0, biased=True),
        "empty": ragged(0, 0),
        "none": None,
    }[name]


def held(slots, valid=None):
    return Layer(slots, (torch.arange(float(TAIL)) + T).expand(B, -1), valid)


def by_hand(q, tail, layer, window=None):
    """Output and log-mass of one query of one head at a time, in float64."""
    rows, heads, queries, _ = q.shape
    kv_heads, t = tail[0].shape[1:3]
    out, mass = torch.zeros(q.shape, dtype=torch.float64), torch.zeros(q.shape[:3], dtype=torch.float64)
    packed = list(layer.slots.heads()) if layer.slots else [even(1, 0).heads().__next__()] * kv_heads
    for b in range(rows):
        for h in range(heads):
            g = h // (heads // kv_heads)
            keys, values, positions, bias = packed[g]
            for i in range(queries):
                order = t - queries + i
                at = layer.positions[b, order]
                see = [j for j in range(order + 1) if layer.valid is None or layer.valid[b, j] or j == order]
                see = [j for j in see if window is None or layer.positions[b, j] > at - window]
                own = [j for j in range(len(keys)) if window is None or positions[j] > at - window]
                all_k = torch.cat((keys[own], tail[0][b, g, see])).double()
                all_v = torch.cat((values[own], tail[1][b, g, see])).double()
                extra = torch.zeros(len(keys)) if bias is None else bias
                logits = all_k @ q[b, h, i].double() * SCALE + torch.cat((extra[own], torch.zeros(len(see)))).double()
                out[b, h, i], mass[b, h, i] = logits.softmax(0) @ all_v, logits.logsumexp(0)
    return out, mass


def agree(got, want, dtype=None):
    return all(close(g, w, KEYS, dtype) for g, w in zip(got, want, strict=True))


@pytest.mark.parametrize("queries", [1, Q, TAIL])
@pytest.mark.parametrize("name", LAYOUTS)
def test_output_and_mass_equal_a_computation_by_hand(attend, q, tail, name, queries):
    q = noise(B, H, queries, D)
    layer = held(layout(name))
    out, mass = attend(q, *tail, layer, SCALE, None)
    assert (out.shape, mass.shape, mass.dtype) == (q.shape, q.shape[:3], torch.float32)
    assert agree((out, mass), by_hand(q, tail, layer))


@pytest.mark.parametrize("padded", [(2, 0), (0, 4), (1, 3)])
@pytest.mark.parametrize("name", LAYOUTS)
def test_padding_on_the_left_is_not_seen(attend, q, tail, name, padded):
    valid = torch.arange(TAIL)[None] >= torch.tensor(padded)[:, None]
    layer = held(layout(name), valid)
    assert agree(attend(q, *tail, layer, SCALE, None), by_hand(q, tail, layer))


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_padded_query_stays_finite(attend, q, tail, name):
    valid = torch.ones(B, TAIL, dtype=torch.bool)
    valid[0, :4] = False
    out, mass = attend(q, *tail, held(layout(name), valid), SCALE, None)
    assert torch.isfinite(out).all()
    assert torch.isfinite(mass).all()


@pytest.mark.parametrize("name", LAYOUTS)
def test_bfloat16_is_near_to_float64_and_keeps_its_type(attend, q, tail, name):
    q, tail, slots = q.bfloat16(), tuple(x.bfloat16() for x in tail), layout(name)
    if slots is not None:
        slots = replace(slots, keys=slots.keys.bfloat16(), values=slots.values.bfloat16())
    out, mass = attend(q, *tail, held(slots), SCALE, None)
    assert (out.dtype, mass.dtype) == (torch.bfloat16, torch.float32)
    assert agree((out, mass), by_hand(q, tail, held(slots)), torch.bfloat16)


def test_a_bias_is_not_rounded_to_half_precision(attend):
    """A lone slot whose bias bfloat16 cannot hold, next to a tail that weighs nothing."""
    slots = Slots(torch.zeros(1, D), torch.ones(1, D), torch.zeros(1), torch.tensor([20.3]), (1,))
    zeros = torch.zeros(1, 1, 1, D, dtype=torch.bfloat16)
    slots = replace(slots, keys=slots.keys.bfloat16(), values=slots.values.bfloat16())
    _, mass = attend(zeros, zeros, zeros, Layer(slots, torch.ones(1, 1)), SCALE, None)
    assert float(mass) == near(20.3, 1)


def test_float64_stays_float64(attend, q, tail):
    slots = replace(even(), keys=even().keys.double(), values=even().values.double())
    layer = held(slots)
    out, mass = attend(q.double(), *(x.double() for x in tail), layer, SCALE, None)
    assert out.dtype == torch.float64
    assert agree((out, mass), by_hand(q.double(), tail, layer), torch.float32)  # of the softmax


@given(
    lengths=st.lists(st.integers(0, T), min_size=1, max_size=3),
    rep=st.integers(1, 3),
    rows=st.integers(1, 3),
    t=st.integers(1, 6),
    data=st.data(),
)
def test_both_paths_agree_whatever_the_shape(lengths, rep, rows, t, data):
    queries = data.draw(st.integers(1, t))
    slots = ragged(*lengths, biased=data.draw(st.booleans()))
    padded = torch.tensor([data.draw(st.integers(0, t - 1)) for _ in range(rows)])
    valid = (torch.arange(t)[None] >= padded[:, None]) if data.draw(st.booleans()) else None
    q, kv = noise(rows, len(lengths) * rep, queries, D), (rows, len(lengths), t, D)
    layer = Layer(slots, (torch.arange(float(t)) + T).expand(rows, -1), valid)
    tail = noise(*kv, seed=1), noise(*kv, seed=2)
    want = by_hand(q, tail, layer)
    for attend in PATHS:
        assert agree(attend(q, *tail, layer, SCALE, None), want)


def test_queries_and_keys_need_not_be_contiguous(attend, q, tail):
    """Attention modules hand over transposed views."""
    turned = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, *tail)]
    assert not any(x.is_contiguous() for x in turned)
    for name in LAYOUTS:
        layer = held(layout(name))
        assert agree(attend(*turned, layer, SCALE, None), by_hand(q, tail, layer))


def test_uniform_heads_without_bias_equal_stock_attention(attend, q, tail, slots):
    keys = torch.cat((slots.keys.view(1, G, T, D).expand(B, -1, -1, -1), tail[0]), dim=2)
    values = torch.cat((slots.values.view(1, G, T, D).expand(B, -1, -1, -1), tail[1]), dim=2)
    mask = torch.ones(Q, T + TAIL, dtype=torch.bool).tril(T + TAIL - Q)
    want = torch.nn.functional.scaled_dot_product_attention(q, keys, values, mask, scale=SCALE, enable_gqa=True)
    assert close(attend(q, *tail, held(slots), SCALE, None)[0], want, KEYS)


def test_a_bias_of_log_two_equals_the_slot_twice(attend, q, tail, slots):
    bias = torch.zeros(G * T)
    bias[[2, T + 2]] = math.log(2)
    keys, values = slots.keys.view(G, T, D), slots.values.view(G, T, D)
    twice = pack(
        torch.cat((keys, keys[:, 2:3]), dim=1), torch.cat((values, values[:, 2:3]), dim=1), torch.arange(T + 1.0)
    )
    once = attend(q, *tail, held(replace(slots, bias=bias)), SCALE, None)
    assert agree(once, attend(q, *tail, held(twice), SCALE, None))
    assert not agree(once, attend(q, *tail, held(slots), SCALE, None))


def test_a_slot_far_above_all_others_takes_everything(attend, q, tail):
    """Masses that differ by more than float32's exponents hold must not become infinities."""
    for sign in (1, -1):
        layer = held(replace(ragged(1, 1), bias=torch.tensor([300.0, 300.0]) * sign))
        out, mass = attend(q, *tail, layer, SCALE, None)
        assert agree((out, mass), by_hand(q, tail, layer))


@pytest.mark.parametrize("window", [2, 4, 7, 100])
@pytest.mark.parametrize("queries", [1, Q, TAIL])
def test_a_sliding_window_masks_slots_by_position(tail, slots, window, queries):
    q, layer = noise(B, H, queries, D), held(slots)
    assert agree(attend_reference(q, *tail, layer, SCALE, window), by_hand(q, tail, layer, window))


@pytest.mark.parametrize("window", [2, 4, 7, 100])
def test_a_sliding_window_masks_the_tail_by_position(attend, q, tail, window):
    layer = held(None)
    assert agree(attend(q, *tail, layer, SCALE, window), by_hand(q, tail, layer, window))


def test_a_sliding_window_counts_positions_not_entries(attend, q, tail, slots):
    apart = replace(held(None), positions=torch.tensor([[20.0, 30, 31, 50, 51]]).expand(B, -1))
    assert agree(attend(q, *tail, apart, SCALE, 25), by_hand(q, tail, apart, 25))
    apart = replace(apart, slots=slots)
    assert agree(attend_reference(q, *tail, apart, SCALE, 25), by_hand(q, tail, apart, 25))


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_mass_turns_logits_into_probabilities_that_sum_to_one(attend, q, tail, name):
    slots = layout(name)
    _, mass = attend(q, *tail, held(slots), SCALE, None)
    order = torch.arange(TAIL)
    for h in range(H):
        g = h // (H // G)
        logits = q[:, h] @ tail[0][:, g].transpose(1, 2) * SCALE
        logits = logits.masked_fill(order > TAIL - Q + torch.arange(Q)[:, None], -math.inf)
        total = (logits - mass[:, h, :, None]).exp().sum(-1)
        if slots is not None:
            keys, _, _, bias = list(slots.heads())[g]
            over_slots = q[:, h] @ keys.T * SCALE + (0 if bias is None else bias)
            p = (over_slots - mass[:, h, :, None]).exp()
            assert (p <= 1 + tolerance(p, KEYS)).all()
            total = total + p.sum(-1)
        assert close(total, torch.ones(B, Q), KEYS)


def test_slots_receive_everything_when_there_is_nothing_else(attend, q, slots):
    # the only tail entry is the query's own, far below every slot
    one = q[:, :, :1]
    keys = -100 * one[:, ::2]
    layer = Layer(slots, torch.full((B, 1), float(T)))
    _, mass = attend(one, keys, torch.zeros_like(keys), layer, SCALE, None)
    per_head = slots.keys.view(G, T, D).repeat_interleave(H // G, 0)
    p = (torch.einsum("bhqd,htd->bhqt", one * SCALE, per_head) - mass[..., None]).exp()
    assert close(p[:, ::2].sum(-1), torch.ones(B, G, 1), KEYS)


def test_many_queries_are_served_in_bounded_memory_with_the_same_result(attend):
    """As many queries as need several steps: each step must be masked as its own rows."""
    n, queries = 2048, 4096
    big = pack(noise(1, n, D, seed=1), noise(1, n, D, seed=2), torch.arange(float(n)))
    q, k, v = (noise(1, 1, queries, D, seed=s) for s in (3, 4, 5))
    layer = Layer(big, (torch.arange(float(queries)) + n)[None])
    assert queries * (n + queries) > attention.LOGITS_AT_ONCE
    got, mass = attend(q, k, v, layer, SCALE, None)
    keys, values = torch.cat((big.keys[None, None], k), 2), torch.cat((big.values[None, None], v), 2)
    logits = (q @ keys.transpose(2, 3) * SCALE).masked_fill_(
        ~torch.ones(queries, n + queries).tril(n).bool(), -math.inf
    )
    assert close(mass, logits.logsumexp(-1), D)
    assert close(got, logits.softmax(-1) @ values, D)


def test_joined_slots_equal_one_longer_set(attend, q, tail, slots):
    more = pack(noise(G, 4, D, seed=8), noise(G, 4, D, seed=9), torch.arange(4.0))
    both = pack(
        torch.cat((slots.keys.view(G, T, D), more.keys.view(G, 4, D)), dim=1),
        torch.cat((slots.values.view(G, T, D), more.values.view(G, 4, D)), dim=1),
        torch.cat((slots.positions[:T], more.positions[:4])),
    )
    one, other = (attend(q, *tail, held(s), SCALE, None) for s in (join((slots, more)), both))
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("queries", [1, TAIL])
def test_plain_causal_attention_needs_no_mask(queries, slots):
    assert tail_mask(held(slots), queries, None) is None
    assert tail_mask(held(slots), queries, 100) is None


def called(q, tail, layer, observer=None, window=None):
    """Through the function that transformers calls."""
    module = SimpleNamespace(layer_idx=0, sliding_window=window)
    run = Pass([layer], observer)
    return attention.attention(module, q, *tail, None, scaling=SCALE, holdfast=run)[0].transpose(1, 2)


@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("name", LAYOUTS)
def test_an_observer_changes_no_output_and_sees_scaled_queries_mass_and_keys(q, tail, name, window):
    layer, seen = held(layout(name)), []
    want = by_hand(q, tail, layer, window)
    with_one = called(q, tail, layer, lambda *got: seen.append(got), window)
    assert agree((called(q, tail, layer, window=window), with_one), (want[0], want[0]))
    ((index, query, mass, key),) = seen
    assert index == 0
    assert torch.equal(query, q * SCALE)
    assert torch.equal(key, tail[0])
    assert close(mass, want[1], KEYS)


@pytest.mark.parametrize("leaf", ["query", "key", "value", "slot keys", "slot values", "slot bias"])
def test_whatever_is_trained_gets_the_gradient_of_the_reference(q, tail, leaf):
    """The fast kernel has no gradient for the mass, so that training must not go through it."""
    slots = layout("biased")
    parts = {"query": q, "key": tail[0], "value": tail[1]}
    parts |= {"slot keys": slots.keys, "slot values": slots.values, "slot bias": slots.bias}
    parts = {name: part.clone().requires_grad_(name == leaf) for name, part in parts.items()}

    def gradient(attend):
        packed = replace(slots, keys=parts["slot keys"], values=parts["slot values"], bias=parts["slot bias"])
        out = attend(parts["query"], (parts["key"], parts["value"]), held(packed))
        return torch.autograd.grad((out * noise(*out.shape, seed=7)).sum(), parts[leaf])[0]

    want = gradient(lambda q, tail, layer: attend_reference(q, *tail, layer, SCALE, None)[0])
    assert want.abs().sum() > 0
    assert close(gradient(called), want, KEYS)


def test_a_model_used_directly_still_works_as_before(two, ids):
    text = ids(30)
    with torch.no_grad():
        assert torch.equal(two.model.hf(text[None]).logits, two.plain(text[None]).logits)
