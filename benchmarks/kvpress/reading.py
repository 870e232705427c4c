"""Runs kvpress's presses on a Holdfast model: its own hooks over its own prefill, and what they scored.

A press reads prefix and span as one prompt, the only prefill that kvpress acts on. Which tokens the prefix had is read
from its cached values, and the caches of both programs are compared before any score is used.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from kvpress import BasePress, KVzipPress, ScorerPress
from torch import Tensor
from transformers import DynamicCache

from holdfast.engine.kv_context import KVContext
from holdfast.errors import BadOption, Failed, UnsupportedModel
from holdfast.model import attention
from holdfast.model.load import Model

logging.getLogger("kvpress").setLevel(logging.ERROR)  # KVzip warns of its cost each time that it is made

ROWS = 64  # prefix tokens that are looked up at one time
CLOSE = {torch.float32: 1e-3, torch.float64: 1e-6}  # relative difference of two prefills that read the same
CLOSE_ROUNDED = 5e-2  # in 16-bit types


class Reading(NamedTuple):
    """Results of kvpress for a prompt of `N` tokens."""

    scores: Tensor
    """`[L, G, N]`, on the CPU."""
    cache: DynamicCache
    seconds: float
    """Of the scoring, without the prefill that it needs."""


@dataclass
class Recorder(BasePress):
    """Lets `press` score each layer and evicts nothing."""

    press: ScorerPress
    scores: dict[int, Tensor] = field(default_factory=dict)
    seconds: float = 0.0

    def post_init_from_model(self, model: Any) -> None:
        self.press.post_init_from_model(model)

    def compress(
        self, module: Any, hidden_states: Tensor, keys: Tensor, values: Tensor, attentions: Any, kwargs: dict[str, Any]
    ) -> tuple[Tensor, Tensor]:
        began = now(keys.device)
        scored = self.press.score(module, hidden_states, keys, values, attentions, kwargs)
        self.scores[module.layer_idx] = scored[0].cpu()
        self.seconds += now(keys.device) - began
        return keys, values


class KVzipRecorder(KVzipPress):  # type: ignore[misc]
    """KVzip up to its scores, which it reads after the prefill."""

    seconds = 0.0

    def compress_post(self, model: Any) -> None:
        self.scores = dict(enumerate(self.score_val[:, 0].cpu()))


@contextmanager
def raw(hf: Any) -> Iterator[None]:
    """Runs the model as kvpress expects it: stock SDPA attention, and `cache_position` in the calls of its layers.

    transformers 5.3 took that argument away (pull request 44181); kvpress 0.5.5 reads it.
    """
    layers = [layer.self_attn for layer in hf.model.layers]
    hf.set_attn_implementation("sdpa")
    hooks = [layer.register_forward_pre_hook(cache_position, with_kwargs=True) for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for layer in layers:  # kvpress leaves these behind
            layer.masked_key_indices = None
            layer._modules.pop("rotary_emb", None)
        hf.model.__dict__.pop("forward", None)
        attention.register_attention()  # without the wrapper that importing kvpress puts around attention functions
        hf.set_attn_implementation(attention.NAME)


@torch.no_grad()
def read(press: Recorder | KVzipRecorder, model: Model, ids: Tensor) -> Reading:
    """Prefills `ids [N]` under a press that records."""
    cache = DynamicCache()
    with raw(model.hf):
        with press(model.hf):
            model.hf.model(input_ids=ids[None].to(model.device), past_key_values=cache)
            prefilled = now(model.device)
        seconds = press.seconds + now(model.device) - prefilled
        scores = torch.stack([press.scores[layer] for layer in range(len(model.hf.model.layers))])
    return Reading(scores, cache, seconds)


def check_model(model: Model) -> None:
    """Raises UnsupportedModel if kvpress has no layers to act on, or acts on sliding ones."""
    for index, layer in enumerate(model.family.layers):
        if layer.window is not None:
            raise UnsupportedModel(f"layer {index} slides over {layer.window} tokens; the rivals need full attention")


@torch.no_grad()
def prefix_ids(past: KVContext) -> Tensor:
    """Returns the tokens `[P]` that `past` has read, from the first layer's values, which depend on nothing else.

    Raises BadOption unless they are a plain prefix.
    """
    first = past.cache.layers[0]
    P = first.positions.shape[1]
    if first.slots is not None or not torch.equal(first.positions[0].cpu(), torch.arange(P, dtype=torch.float32)):
        raise BadOption("kvpress compacts a prompt once, behind a verbatim prefix; leave out --by-turn")
    if P == 0:
        return torch.empty(0, dtype=torch.int64)
    _, values = past.cache.newest(0, P)
    table = _first_values(past.model).float()
    seen = values.transpose(0, 1).reshape(P, -1).float()
    return torch.cat([torch.cdist(rows, table).argmin(1) for rows in torch.split(seen, ROWS)]).cpu()


def check_same(reading: Reading, after: KVContext) -> None:
    """Raises Failed unless kvpress's cache holds what ours holds."""
    N, model = reading.scores.shape[-1], after.model
    for layer, held in enumerate(reading.cache.layers):
        ours, theirs = after.cache.newest(layer, N), (held.keys[0], held.values[0])
        for a, b in zip(ours, theirs, strict=True):
            apart = float((a - b).float().norm() / a.float().norm())
            if a.shape != b.shape or apart > CLOSE.get(model.dtype, CLOSE_ROUNDED):
                raise Failed(f"layer {layer}: kvpress's states differ from ours by {apart:.2g} of their size")


def _first_values(model: Model) -> Tensor:
    """Returns the value that the first layer caches for each token of the vocabulary, `[V, G * D]`."""
    layer, embedding = model.hf.model.layers[0], model.hf.get_input_embeddings()
    x = layer.input_layernorm(embedding(torch.arange(embedding.num_embeddings, device=model.device)))
    if hasattr(layer.self_attn, "v_proj"):
        return layer.self_attn.v_proj(x)  # type: ignore[no-any-return]
    return layer.self_attn.qkv_proj(x)[..., -model.family.kv_heads * model.family.head_dim :]  # type: ignore[no-any-return]


def cache_position(module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Adds the cache positions of the tokens to the arguments of an attention layer, as a forward pre-hook."""
    hidden, cache = kwargs["hidden_states"], kwargs["past_key_values"]
    seen = cache.get_seq_length(module.layer_idx)
    kwargs.setdefault("cache_position", torch.arange(seen, seen + hidden.shape[1], device=hidden.device))
    return args, kwargs


def now(device: torch.device) -> float:
    """Seconds, after all that the device was given to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
