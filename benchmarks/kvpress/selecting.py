"""Selection of pairs by kvpress, given its scores: its own `compress` methods, run on positions instead of keys."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from kvpress import AdaKVPress, KVzipPress, ScorerPress
from torch import Tensor


@dataclass
class Replay(ScorerPress):
    """A press that has scored already."""

    scores: Tensor | None = None

    def score(self, *args: Any, **kwargs: Any) -> Tensor:
        assert self.scores is not None
        return self.scores[None].clone()  # AdaKV writes into what it gets


def removal_fraction(total: int, kept: int) -> float:
    """Returns the fraction for which `int(total * (1 - fraction))`, kvpress's count of what stays, is `kept`."""
    return 1 - (kept + 0.5) / total


def per_head(scores: Tensor, slots: int) -> Tensor:
    """Selects the best `slots` of every head with `ScorerPress`. Returns masks `[L, G, T]` of `scores [L, G, T]`."""
    _, G, T = scores.shape
    positions = torch.arange(T).view(1, 1, T, 1).expand(1, G, T, 1)
    mask = torch.zeros(scores.shape, dtype=torch.bool)
    for layer, s in enumerate(scores):
        press = Replay(removal_fraction(T, slots), s)
        kept, _ = press.compress(_module(layer), None, positions, positions, None, {})
        mask[layer].scatter_(1, kept[0, :, :, 0], True)
    return mask


def per_layer(scores: Tensor, slots: int, alpha: float) -> Tensor:
    """Selects the best of each layer over its heads with `AdaKVPress`, with its safeguard for every head."""
    T = scores.shape[-1]
    mask = torch.ones(scores.shape, dtype=torch.bool)
    for layer, s in enumerate(scores):
        module = _module(layer)
        AdaKVPress(Replay(removal_fraction(T, slots), s), alpha).compress(module, None, None, None, None, {})
        mask[layer][module.masked_key_indices[1:]] = False
    return mask


def over_all(scores: Tensor, slots: int, n_sink: int) -> Tensor:
    """Selects the best over all layers and heads with `KVzipPress`."""
    L, G, T = scores.shape
    pairs = L * G * T
    # it rounds what goes, where the other presses round what stays
    press = KVzipPress((pairs - L * G * slots + 0.5) / pairs, n_sink=n_sink)
    press.score_val = scores[:, None].clone()
    modules = [_module(layer) for layer in range(L)]
    press.compress_post(SimpleNamespace(model=SimpleNamespace(layers=[SimpleNamespace(self_attn=m) for m in modules])))
    mask = torch.ones(scores.shape, dtype=torch.bool)
    for layer, module in enumerate(modules):
        mask[layer][module.masked_key_indices[1:]] = False
    return mask


def _module(layer: int) -> SimpleNamespace:
    """Returns the attributes of an attention layer that the `compress` methods read."""
    return SimpleNamespace(layer_idx=layer, head_dim=1, config=SimpleNamespace(_attn_implementation="sdpa"))
