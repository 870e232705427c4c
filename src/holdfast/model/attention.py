"""Holdfast's attention, registered by name through transformers' documented interface.

A layer holds *slots* (KV pairs packed head by head, possibly of different number per head and with a bias each)
in front of a dense *tail* of ordinary tokens. Layers without slots go to the stock SDPA kernel; layers with slots
take the readable path below, whose softmax is always float32. Masks follow from positions, never from indices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

NAME = "holdfast"
LOGITS_AT_ONCE = 1 << 24  # bounds the float32 scratch of the readable path to 64 MiB

Observer = Callable[[int, int, Tensor], None]
"""Called as `observer(layer, kv_head, probabilities [B, H/G, Q, n])` with the attention that slots receive."""


@dataclass(frozen=True)
class Slots:
    """The KV pairs that one layer holds in front of its tail, heads packed one after another without padding."""

    keys: Tensor
    """`[N, D]`, rotated at `positions`; N is the sum of `lengths`."""
    values: Tensor
    """`[N, D]`"""
    positions: Tensor
    """`[N]` float32"""
    bias: Tensor | None
    """`[N]` float32, added to the logits (log-mass of what a slot stands for); None is all zero."""
    lengths: tuple[int, ...]
    """Slots of each of the G heads."""

    def heads(self) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor | None]]:
        """Keys, values, positions and bias of each head in turn (views)."""
        at = 0
        for n in self.lengths:
            part = slice(at, at + n)
            yield (
                self.keys[part],
                self.values[part],
                self.positions[part],
                None if self.bias is None else self.bias[part],
            )
            at += n

    @property
    def nbytes(self) -> int:
        """Bytes really held by keys, values and bias."""
        return sum(t.nbytes for t in (self.keys, self.values, self.bias) if t is not None)


class Held(Protocol):
    """What the attention reads from one layer of a cache."""

    slots: Slots | None
    positions: Tensor
    """Of the tail, `[B, t]`, the newest Q of which are the queries'."""
    valid: Tensor | None
    """`[B, t]` bool, False at padding; None means all valid."""


@dataclass
class Pass:
    """One forward pass as the attention sees it; travels to the layers as the keyword `holdfast`."""

    layers: list[Held]
    observer: Observer | None = None


def register() -> None:
    """Make `attn_implementation="holdfast"` known to transformers. Harmless to call again."""
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(NAME, attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, sdpa_mask)


def attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """Attend `query [B, H, Q, D]` over a layer's slots and its tail `key, value [B, G, t, D]`.

    Returns `[B, Q, H, D]`, the layout that transformers' attention modules expect.
    """
    run: Pass | None = kwargs.get("holdfast")
    if run is None:  # the model is being used directly; the stock mask came with the call
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        out, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
        return out, None
    held, scaling = run.layers[module.layer_idx], kwargs["scaling"]
    window = getattr(module, "sliding_window", None) or kwargs.get("sliding_window")
    if held.slots is None or not sum(held.slots.lengths):
        return _stock(query, key, value, held, scaling, window).transpose(1, 2), None
    observe = None if run.observer is None else partial(run.observer, module.layer_idx)
    return readable(query, key, value, held, scaling, window, observe).transpose(1, 2), None


def tail_mask(held: Held, queries: int, window: int | None) -> Tensor | None:
    """Which tail entries each query sees, `[B, 1, Q, t]` bool; None when that is plain causal attention."""
    t = held.positions.shape[1]
    sees_all = window is None or bool((held.positions.amax() - held.positions.amin() < window).item())
    if held.valid is None and sees_all and queries in (1, t):
        return None
    order = torch.arange(t, device=held.positions.device)
    mask = (order[None, :] <= order[t - queries :, None])[None]
    if not sees_all and window is not None:
        mask = mask & (held.positions[:, None, :] > held.positions[:, t - queries :, None] - window)
    if held.valid is not None:
        # a padded query may look at itself, so that its softmax stays finite; nobody reads it
        mask = mask & (held.valid[:, None, :] | (order[None, :] == order[t - queries :, None])[None])
    return mask[:, None]


def _stock(query: Tensor, key: Tensor, value: Tensor, held: Held, scaling: float, window: int | None) -> Tensor:
    queries = query.shape[2]
    mask = tail_mask(held, queries, window)
    return F.scaled_dot_product_attention(
        query, key, value, mask, is_causal=mask is None and queries > 1, scale=scaling, enable_gqa=True
    )


def readable(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    held: Held,
    scaling: float,
    window: int | None,
    observe: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    """The reference: softmax over slots and tail together, head by head, a bounded number of queries at a time."""
    assert held.slots is not None
    B, H, Q, _ = query.shape
    t, rep = key.shape[2], H // key.shape[1]
    out = torch.empty_like(query)
    mask = tail_mask(held, Q, window)
    if mask is None and Q > 1:
        mask = torch.ones(Q, t, dtype=torch.bool, device=query.device).tril(t - Q)[None, None]
    for g, head in enumerate(held.slots.heads()):
        step = max(1, LOGITS_AT_ONCE // (B * rep * (head[0].shape[0] + t)))
        for at in range(0, Q, step):
            rows = slice(at, at + step)
            logits = _logits(query[:, g * rep : (g + 1) * rep, rows], head, key[:, g, None], scaling)
            n = head[0].shape[0]
            if mask is not None:
                logits[..., n:].masked_fill_(~mask[:, :, rows], float("-inf"))
            if window is not None:
                hidden = head[2][None, :] <= held.positions[:, t - Q :][:, rows, None] - window  # [B, q, n]
                logits[..., :n].masked_fill_(hidden[:, None], float("-inf"))
            p = logits.softmax(-1)
            if observe:
                observe(g, p[..., :n])
            p = p.to(value.dtype)
            out[:, g * rep : (g + 1) * rep, rows] = p[..., :n] @ head[1] + p[..., n:] @ value[:, g, None]
    return out


def _logits(query: Tensor, head: tuple[Tensor, Tensor, Tensor, Tensor | None], key: Tensor, scaling: float) -> Tensor:
    """`[B, H/G, q, n + t]` float32."""
    slots, bias = head[0], head[3]
    over_slots = (query @ slots.T).float() * scaling
    if bias is not None:
        over_slots = over_slots + bias
    return torch.cat((over_slots, (query @ key.transpose(-1, -2)).float() * scaling), dim=-1)
