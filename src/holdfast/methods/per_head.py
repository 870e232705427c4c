"""Heads one by one: what a method changes in the KV pairs that it keeps, and how heads become a segment again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast.blocks.block import Origin
from holdfast.context.allocation import apportion
from holdfast.context.budget import Budget
from holdfast.context.packing import pack
from holdfast.context.segments import StateSegment
from holdfast.model.slots import Slots
from holdfast.model.states import States

Masks = Mapping[int, Tensor]
"""Per full-attention layer `[G, T]` bool."""
LOG_BOUND = 3.0  # of a bias: a slot counts for 1/20 to 20 tokens, so that none is switched off and none takes over


@dataclass(frozen=True)
class HeadSlots:
    """The slots of one head."""

    keys: Tensor
    """`[n, D]`, un-rotated"""
    values: Tensor
    """`[n, D]`"""
    positions: Tensor
    """`[n]` float32"""
    bias: Tensor | None
    """`[n]` float32"""
    scores: Tensor
    """`[n]` float32"""

    def __len__(self) -> int:
        return len(self.keys)

    def select(self, index: Tensor) -> HeadSlots:
        """Returns the slots at `index`."""
        bias = None if self.bias is None else self.bias[index]
        return HeadSlots(self.keys[index], self.values[index], self.positions[index], bias, self.scores[index])


def select_pairs(states: States, layer: int, g: int, mask: Tensor, scores: Tensor) -> HeadSlots:
    """Returns the KV pairs of head `g` where `mask [T]` is True, as the model computed them; `scores [T]`."""
    keys, values = states.keys[layer][g][mask], states.values[layer][g][mask]
    return HeadSlots(keys, values, states.positions[mask], None, scores[mask].float())


def concatenate(first: HeadSlots, second: HeadSlots) -> HeadSlots:
    """Returns one head's slots behind another's."""
    biases = [torch.zeros_like(h.positions) if h.bias is None else h.bias for h in (first, second)]
    return HeadSlots(
        torch.cat((first.keys, second.keys)),
        torch.cat((first.values, second.values)),
        torch.cat((first.positions, second.positions)),
        None if first.bias is None and second.bias is None else torch.cat(biases),
        torch.cat((first.scores, second.scores)),
    )


def build_segment(
    states: States, heads: Mapping[int, Sequence[HeadSlots]], origins: tuple[Origin, ...]
) -> StateSegment:
    """Builds a segment of the given heads per layer; layers that are not named (sliding ones) are kept whole.

    Values and keys return to the dtype of the states. A layer of which no head has a bias holds none.
    """
    layers, scores = [], []
    for layer, (keys, values) in enumerate(zip(states.keys, states.values, strict=True)):
        if layer not in heads:
            layers.append(pack(keys, values, states.positions[-keys.shape[1] :]))
            scores.append(states.positions.new_empty(0))
            continue
        mine = heads[layer]
        biases = [torch.zeros_like(h.positions) if h.bias is None else h.bias for h in mine]  # each [n]
        layers.append(
            Slots(
                torch.cat([h.keys for h in mine]).to(keys.dtype),  # [N, D], all heads behind one another
                torch.cat([h.values for h in mine]).to(values.dtype),  # [N, D]
                torch.cat([h.positions for h in mine]),  # [N]
                None if all(h.bias is None for h in mine) else torch.cat(biases),
                tuple(len(h) for h in mine),
            )
        )
        scores.append(torch.cat([h.scores for h in mine]))
    return StateSegment(tuple(layers), origins, tuple(scores))


def bytes_per_pair(states: States) -> int:
    """Returns the bytes of one KV pair."""
    return sum(x[0].shape[-1] * x[0].element_size() for x in (states.keys, states.values))


def pay_for_bias(chosen: Masks, scores: Mapping[int, Tensor], budget: Budget, states: States) -> dict[int, Tensor]:
    """Removes pairs of lowest score from `chosen`, the same share of every head, to pay for a bias on all others."""
    heads = [(layer, g) for layer, mask in chosen.items() for g in range(mask.shape[0])]
    counts = affordable_counts([int(chosen[layer][g].sum()) for layer, g in heads], budget, states)
    out = {layer: torch.zeros_like(mask) for layer, mask in chosen.items()}
    for (layer, g), count in zip(heads, counts, strict=True):
        order = scores[layer][g].masked_fill(~chosen[layer][g], -torch.inf).argsort(descending=True, stable=True)
        out[layer][g, order[:count]] = True
    return out


def affordable_counts(lengths: Sequence[int], budget: Budget, states: States) -> list[int]:
    """Returns the slots of each head that the budget holds if all of them carry a bias."""
    most = min(sum(lengths), max(1, budget.pairs_with_bias(len(lengths), bytes_per_pair(states))))
    return apportion(lengths, most, max(lengths))
