"""Inputs of the surrogate: what the ordinary prefill computed anyway, per token and layer.

Three kinds: the un-rotated keys and the values of a token in all KV heads of the layer; how well the span's own queries
next to a token match its key, which is what a head that copies will ask again later; and the log-mass of what those
queries saw. The match is taken at one fixed distance, so that it does not depend on the place in a window.
"""

from __future__ import annotations

import torch
from torch import Tensor

from holdfast.model.load import Model
from holdfast.model.states import States

OFFSETS = (-1, 0, 1, 2)
"""Places of the queries, counted from the token whose key they are matched with."""
DISTANCE = 512.0
"""Tokens between query and key for the match: far, as a question about a span is."""


def feature_count(model: Model) -> int:
    """Returns the number of inputs per token of one layer."""
    family = model.family
    return 2 * family.kv_heads * family.head_dim + (len(OFFSETS) + 1) * family.heads


def layer_features(model: Model, layer: int, states: States, queries: Tensor, mass: Tensor) -> Tensor:
    """Returns the inputs of one layer's tokens, `[T, F]` float32.

    `queries [H, T, D]`, rotated and scaled, and `mass [H, T]` are those of the prefill.
    """
    keys, values = states.keys[layer].float(), states.values[layer].float()  # [G, T, D]
    G, T, _ = keys.shape
    rope, positions = model.family.layers[layer].rope, states.positions
    grouped = queries.view(G, -1, *queries.shape[1:])  # [G, H/G, T, D]
    parts = [keys.transpose(0, 1).reshape(T, -1), values.transpose(0, 1).reshape(T, -1)]
    for offset in OFFSETS:
        near = (torch.arange(T, device=keys.device) + offset).clamp(0, T - 1)
        # a query moved to DISTANCE and a key at 0 match as the query where it is and the key DISTANCE before it do
        turned = rope.rotate(keys, positions[near] - DISTANCE)[:, None]  # [G, 1, T, D]
        match = (grouped[:, :, near] * turned.to(queries.dtype)).sum(-1, dtype=torch.float32)
        parts.append(match.flatten(0, 1).T - mass[:, near].T)
    parts.append(mass.T)
    return torch.cat(parts, 1)
