"""The use that a model makes of its values: the output projection of each head, and the size of the residual stream."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from holdfast.model.load import Model


def output_projection(model: Model, layer: int) -> Tensor:
    """Returns the part of a layer's output projection that each query head has, `[H, d_model, D]` float32."""
    weight: Tensor = model.hf.get_decoder().layers[layer].self_attn.o_proj.weight.detach().float()  # [d, H * D]
    return weight.view(len(weight), model.family.heads, -1).transpose(0, 1)


@contextmanager
def watch_residual(model: Model) -> Iterator[list[list[float]]]:
    """Yields lists, one a layer, into which each pass writes the mean square of the layer's input."""
    found: list[list[float]] = [[] for _ in model.family.layers]

    def note(seen: list[float], module: Any, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
        hidden = args[0] if args else kwargs["hidden_states"]
        seen.append(float(hidden.float().square().mean()))

    layers = model.hf.get_decoder().layers
    hooks = [
        layer.register_forward_pre_hook(partial(note, seen), with_kwargs=True)
        for layer, seen in zip(layers, found, strict=True)
    ]
    try:
        with torch.no_grad():
            yield found
    finally:
        for hook in hooks:
            hook.remove()
