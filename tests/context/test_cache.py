"""The memory of one layer: what stands where after a splice, a freeze, a fork and a crop."""

from __future__ import annotations

import torch

from holdfast.context.cache import SlotLayer
from holdfast.context.packing import pack
from holdfast.context.segments import CompactContext
from holdfast.model.load import full_bytes
from tolerance import PASS, close

G, D = 2, 4


def pairs(n, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(G, n, D, generator=generator), torch.randn(G, n, D, generator=generator)


def grown(*counts):
    """A layer that read `counts` tokens one piece after another."""
    layer, at = SlotLayer(), 0
    for seed, n in enumerate(counts):
        k, v = pairs(n, seed)
        layer.positions = torch.cat((layer.positions, torch.arange(at, at + n).float()[None]), dim=1)
        layer.update(k[None], v[None])
        at += n
    return layer


def ragged(seed=9):
    keep = torch.tensor([[True, False, True], [False, False, True]])
    return pack(*pairs(3, seed), torch.arange(100.0, 103.0), keep)


def everything(layer):
    """All pairs per head, slots then tail."""
    out = []
    for g in range(G):
        slots = [] if layer.slots is None else [list(layer.slots.heads())[g][:3]]
        tail = [] if layer.keys is None else [(layer.keys[0, g], layer.values[0, g], layer.positions[0])]
        out.append([torch.cat(parts) for parts in zip(*slots, *tail, strict=True)])
    return out


def same(a, b):
    return all(torch.equal(x, y) for one, two in zip(a, b, strict=True) for x, y in zip(one, two, strict=True))


def test_freezing_turns_the_tail_into_slots_in_the_same_order():
    layer = grown(3, 2)
    layer.splice(ragged())
    layer.update(*(t[None] for t in pairs(4, 7)))
    layer.positions = torch.arange(103.0, 107.0)[None]
    before, size = everything(layer), layer.nbytes
    layer.freeze()
    assert layer.keys is None
    assert layer.positions.shape == (1, 0)
    assert same(everything(layer), before)
    assert layer.nbytes == size


def test_freezing_twice_is_freezing_once():
    layer = grown(3)
    layer.freeze()
    before = everything(layer)
    layer.freeze()
    assert same(everything(layer), before)


def test_dense_states_join_the_tail_and_ragged_ones_become_slots():
    dense = grown(2)
    dense.splice(pack(*pairs(3, 5), torch.arange(2.0, 5.0)))
    assert dense.slots is None
    assert dense.keys.shape == (1, G, 5, D)
    assert dense.positions.tolist() == [[0, 1, 2, 3, 4]]
    dense.splice(ragged())
    assert dense.slots.lengths == (7, 6)
    assert dense.keys is None


def test_a_copy_grows_on_its_own():
    layer = grown(3)
    before = everything(layer)
    twin = layer.copy()
    twin.splice(ragged())
    twin.freeze()
    twin.update(*(t[None] for t in pairs(2, 4)))
    assert same(everything(layer), before)
    assert layer.slots is None


def test_cropping_forgets_the_newest():
    layer = grown(3, 4)
    layer.crop(4)
    assert same(everything(layer), everything(grown(3)))
    layer.crop(0)
    assert same(everything(layer), everything(grown(3)))


def test_cropping_everything_leaves_a_layer_that_can_be_frozen():
    layer = grown(3)
    layer.crop(3)
    layer.freeze()
    assert layer.nbytes == 0


def test_bytes_are_those_of_every_tensor_held():
    layer = grown(3)
    layer.splice(ragged())
    layer.update(*(t[None] for t in pairs(2, 4)))
    slots = layer.slots
    assert layer.nbytes == 4 * (slots.keys.numel() + slots.values.numel() + layer.keys.numel() + layer.values.numel())


def test_an_empty_layer_holds_nothing():
    assert (SlotLayer().nbytes, SlotLayer().get_seq_length()) == (0, 0)


def test_a_settled_memory_holds_only_what_the_next_token_sees_and_answers_the_same(tiny, ids):
    pair = tiny("gemma3_text")
    live, next_ids = pair.engine.open(CompactContext((), 0)), ids(3, seed=1)
    live.feed(ids(40))
    before, kept = pair.engine.next_logits(live, next_ids), live.nbytes
    live.settle(live.next_position)
    assert live.nbytes < kept
    assert live.nbytes == full_bytes(pair.model, 40)
    assert close(before, pair.engine.next_logits(live, next_ids), PASS)
