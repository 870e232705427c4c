"""The facts of each supported architecture, as data. A model outside this table is refused by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from holdfast.errors import UnsupportedModel
from holdfast.model.rope import Rope

FAMILIES = {
    "llama": "Llama, SmolLM2",
    "qwen2": "Qwen2, Qwen2.5",
    "qwen3": "Qwen3 (q/k-norm before RoPE)",
    "mistral": "Mistral",
    "phi3": "Phi-3 (fused QKV, partial rotary)",
    "gemma3_text": "Gemma 3 (sliding layers kept as they are)",
}
# their frequencies change with the length of the input, so that a stored key has no fixed rotation
LENGTH_DEPENDENT_ROPE = ("dynamic", "longrope")


@dataclass(frozen=True)
class Layer:
    """One decoder layer."""

    rope: Rope
    window: int | None
    """Tokens that a sliding layer sees, itself included; None where attention is full and may be compacted."""


@dataclass(frozen=True)
class Family:
    """The shape of a model's attention."""

    layers: tuple[Layer, ...]
    heads: int
    kv_heads: int
    head_dim: int
    d_model: int

    @property
    def full(self) -> tuple[int, ...]:
        """Indices of the layers with full attention: the ones that methods may compact."""
        return tuple(i for i, layer in enumerate(self.layers) if layer.window is None)


def inspect_model(hf: Any) -> Family:
    """Reads the facts from a loaded Hugging Face causal LM.

    Raises UnsupportedModel naming the layer and the reason if it cannot be served.
    """
    config = hf.config
    kind = config.model_type
    if kind not in FAMILIES:
        raise UnsupportedModel(
            f"model type {kind!r} is not served; Holdfast knows: {', '.join(FAMILIES)}. "
            "Its attention layers may have no RoPE, recurrent state or a latent cache."
        )
    kinds = _layer_types(config)
    ropes = {layer_type: _rope(hf, layer_type) for layer_type in set(kinds)}
    layers = tuple(
        Layer(rope=ropes[t], window=config.sliding_window if t == "sliding_attention" else None) for t in kinds
    )
    if all(layer.window is not None for layer in layers):
        raise UnsupportedModel(
            f"layers 0 to {len(layers) - 1} of {kind!r} all slide over {config.sliding_window} tokens; there is no "
            "full-attention layer to compact"
        )
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return Family(layers, config.num_attention_heads, config.num_key_value_heads, head_dim, config.hidden_size)


def _layer_types(config: Any) -> list[str]:
    types = getattr(config, "layer_types", None)
    if types is None:
        sliding = getattr(config, "sliding_window", None) is not None
        types = ["sliding_attention" if sliding else "full_attention"] * config.num_hidden_layers
    for index, layer_type in enumerate(types):
        if layer_type not in ("full_attention", "sliding_attention"):
            raise UnsupportedModel(f"layer {index} is {layer_type!r}; only RoPE attention layers can be served")
    return list(types)


def _rope(hf: Any, layer_type: str) -> Rope:
    rotary = getattr(hf.get_decoder(), "rotary_emb", None)
    if rotary is None:
        raise UnsupportedModel(f"the {layer_type} layers have no rotary embedding: positions cannot be moved")
    per_type = isinstance(rotary.rope_type, dict)
    rope_type = rotary.rope_type[layer_type] if per_type else rotary.rope_type
    if rope_type in LENGTH_DEPENDENT_ROPE:
        raise UnsupportedModel(
            f"the {layer_type} layers use {rope_type!r} RoPE, whose frequencies change with the input's length; "
            "load the model with a fixed rope_type (default, linear, llama3, yarn)"
        )
    prefix = f"{layer_type}_" if per_type else ""
    inv_freq = getattr(rotary, f"{prefix}inv_freq").detach().to(torch.float32).clone()
    return Rope(inv_freq, float(getattr(rotary, f"{prefix}attention_scaling")))
