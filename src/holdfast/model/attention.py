"""Holdfast's attention, registered by name through transformers' documented interface.

A layer holds *slots* (KV pairs packed head by head, possibly of different number per head and with a bias each)
in front of a dense *tail* of ordinary tokens. Layers without slots go to the stock SDPA kernel. Layers with slots
attend to slots and tail apart and merge the two by their log-mass (`merged`, nothing is copied or padded), or take
the `readable` reference, whose softmax is always float32. Masks follow from positions, never from indices. Slots that
are held in fewer bits are made plain for the layer that reads them, and dropped again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from holdfast.model.quantized_slots import QuantizedSlots
from holdfast.model.slots import Slots

NAME = "holdfast"
LOGITS_AT_ONCE = 1 << 24  # bounds the float32 scratch of the readable path to 64 MiB

Observer = Callable[[int, Tensor, Tensor, Tensor], None]
"""Called as `observer(layer, query [B, H, Q, D], mass [B, H, Q], key [B, G, t, D])` after each attention.

Queries are rotated and carry the scaling, so that `exp(query @ k - mass)` is the attention that a rotated key `k`
receives; `mass` is the float32 log-sum-exp over everything seen; `key` are the tail's keys, the queries' own last.
"""

Head = tuple[Tensor, Tensor, Tensor, Tensor | None]
"""Keys, values, positions and bias of one head's slots."""


class CachedLayer(Protocol):
    """The part of one layer of a cache that the attention reads."""

    slots: Slots | None
    """In the model's dtype, keys rotated."""
    quantized: tuple[QuantizedSlots, ...]
    """Further slots in fewer bits."""
    positions: Tensor
    """Of the tail, `[B, t]`, the newest Q of which are the queries'."""
    valid: Tensor | None
    """`[B, t]` bool, False at padding; None means all valid."""


@dataclass
class Pass:
    """One forward pass as the attention sees it; travels to the layers as the keyword `holdfast`."""

    layers: list[CachedLayer]
    observer: Observer | None = None


def register_attention() -> None:
    """Registers `attn_implementation="holdfast"` with transformers. Harmless to call again."""
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(NAME, attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, sdpa_mask)


def attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """Attends `query [B, H, Q, D]` over a layer's slots and its tail `key, value [B, G, t, D]`.

    Returns `[B, Q, H, D]`, the layout that transformers' attention modules expect.
    """
    run: Pass | None = kwargs.get("holdfast")
    if run is None:  # the model is being used directly; the stock mask came with the call
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        out, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
        return out, None
    held, scaling = run.layers[module.layer_idx], kwargs["scaling"]
    window = getattr(module, "sliding_window", None) or kwargs.get("sliding_window")
    has_slots = any(part is not None and sum(part.lengths) > 0 for part in (held.slots, *held.quantized))
    if not has_slots and run.observer is None:
        return _stock(query, key, value, held, scaling, window).transpose(1, 2), None
    attend = attend_merged if _can_merge((query, key, value), held, window if has_slots else None) else attend_reference
    out, mass = attend(query, key, value, held, scaling, window)
    if run.observer is not None:
        run.observer(module.layer_idx, query * scaling, mass, key)
    return out.transpose(1, 2), None


def _can_merge(inputs: tuple[Tensor, Tensor, Tensor], held: CachedLayer, window: int | None) -> bool:
    """Returns False if gradients are needed (the CPU kernel has none for a log-mass) or a sliding
    window hides slots.
    """
    slots = () if held.slots is None else (held.slots.keys, held.slots.values, held.slots.bias)
    trains = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (*inputs, *slots))
    return inputs[0].device.type == "cpu" and window is None and not trains


def tail_mask(held: CachedLayer, queries: int, window: int | None) -> Tensor | None:
    """Returns the tail entries that each query sees, `[B, 1, Q, t]` bool; None for plain causal attention."""
    t = held.positions.shape[1]
    sees_all = window is None or bool((held.positions.amax() - held.positions.amin() < window).item())
    if held.valid is None and sees_all and queries in (1, t):
        return None
    order = torch.arange(t, device=held.positions.device)
    mask = (order[None, :] <= order[t - queries :, None])[None]  # [1, Q, t]
    if not sees_all and window is not None:
        mask = mask & (held.positions[:, None, :] > held.positions[:, t - queries :, None] - window)
    if held.valid is not None:
        # a padded query may look at itself, so that its softmax stays finite; nobody reads it
        mask = mask & (held.valid[:, None, :] | (order[None, :] == order[t - queries :, None])[None])
    return mask[:, None]


def _stock(query: Tensor, key: Tensor, value: Tensor, held: CachedLayer, scaling: float, window: int | None) -> Tensor:
    queries = query.shape[2]
    mask = tail_mask(held, queries, window)
    return F.scaled_dot_product_attention(
        query, key, value, mask, is_causal=mask is None and queries > 1, scale=scaling, enable_gqa=True
    )


def attend_merged(
    query: Tensor, key: Tensor, value: Tensor, held: CachedLayer, scaling: float, window: int | None
) -> tuple[Tensor, Tensor]:
    """Attends by one fused kernel per head of slots and one for the tail: `(out [B, H, Q, D], mass [B, H, Q])`.

    Softmax over parts equals their softmaxes weighted by `exp(log-sum-exp)`, so none is copied to another.
    """
    Q = query.shape[2]
    mask = tail_mask(held, Q, window)
    out, mass = _flash(query, key, value, mask, scaling, causal=mask is None and Q > 1)  # [B, H, Q, D], [B, H, Q]
    for slots in _plain_slots(held, query.dtype):
        over_slots, slots_mass = _attend_slots(query, slots, scaling)
        share = torch.sigmoid(slots_mass - mass)[..., None].to(out.dtype)  # [B, H, Q, 1]
        out, mass = torch.lerp(out, over_slots, share), torch.logaddexp(mass, slots_mass)
    return out, mass


def _plain_slots(held: CachedLayer, dtype: torch.dtype) -> Iterator[Slots]:
    """Yields a layer's slots by their form, each as plain tensors."""
    for part in (held.slots, *held.quantized):
        if part is not None and sum(part.lengths) > 0:
            yield part.plain(dtype)


def _attend_slots(query: Tensor, slots: Slots, scaling: float) -> tuple[Tensor, Tensor]:
    """Attends to the slots alone; returns the output and its log-mass. All rows of a batch share the slots and run as
    one.
    """
    B, H, Q, D = query.shape
    G, n = len(slots.lengths), slots.lengths[0]
    flat = query if B == 1 else query.transpose(0, 1).reshape(1, H, B * Q, D)  # [1, H, B Q, D]
    if n and len(set(slots.lengths)) == 1:
        bias = None if slots.bias is None else slots.bias.view(1, G, 1, n).repeat_interleave(H // G, 1)  # [1, H, 1, n]
        out, mass = _flash(flat, slots.keys.view(1, G, n, D), slots.values.view(1, G, n, -1), bias, scaling)
    else:
        parts = [
            _attend_head(mine, k, v, bias, scaling)
            for mine, (k, v, _, bias) in zip(torch.split(flat, H // G, dim=1), slots.heads(), strict=True)
        ]
        out, mass = (torch.cat(found, dim=1) for found in zip(*parts, strict=True))  # [1, H, B Q, D], [1, H, B Q]
    if B > 1:
        out, mass = out.view(H, B, Q, -1).transpose(0, 1), mass.view(H, B, Q).transpose(0, 1)
    return out, mass


def _attend_head(
    query: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None, scaling: float
) -> tuple[Tensor, Tensor]:
    """Attends with the query heads `[1, H/G, n, D]` to the one head of slots that they share."""
    if not len(keys):
        nothing = query.new_full(query.shape[:3], float("-inf"), dtype=torch.float32)
        return query.new_zeros(*query.shape[:3], values.shape[1]), nothing
    # the kernel takes a float32 mask beside half-precision queries, so that a bias is not rounded to them
    mask = None if bias is None else bias.to(torch.promote_types(query.dtype, bias.dtype))[None, None, None]
    return _flash(query, keys[None, None], values[None, None], mask, scaling)


def _flash(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float, causal: bool = False
) -> tuple[Tensor, Tensor]:
    """Calls the CPU kernel behind SDPA for the log-sum-exp too, which SDPA does not return."""
    if mask is not None and mask.dtype == torch.bool:
        mask = torch.zeros(mask.shape, dtype=query.dtype).masked_fill_(~mask, float("-inf"))
    if mask is not None:
        mask = mask.expand(query.shape[0], query.shape[1], query.shape[2], key.shape[2])
    out, mass = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default(
        query, key, value, 0.0, causal, attn_mask=mask, scale=scaling
    )
    return out, mass.float()


def attend_reference(
    query: Tensor, key: Tensor, value: Tensor, held: CachedLayer, scaling: float, window: int | None
) -> tuple[Tensor, Tensor]:
    """Attends by softmax over slots and tail together, head by head, with a bounded number of queries at a time.

    Returns `(out [B, H, Q, D], mass [B, H, Q])`, the log-sum-exp of all logits as `mass`. The reference of the fast
    path.
    """
    B, H, Q, D = query.shape
    G, t = key.shape[1:3]
    rep = H // G
    empty = Slots(query.new_empty(0, D), value.new_empty(0, value.shape[-1]), query.new_empty(0), None, (0,) * G)
    parts = list(_plain_slots(held, query.dtype)) or [empty]
    out, mass = torch.empty_like(query), query.new_empty(B, H, Q, dtype=torch.float32)
    mask = tail_mask(held, Q, window)
    if mask is None and Q > 1:
        mask = torch.ones(Q, t, dtype=torch.bool, device=query.device).tril(t - Q)[None, None]
    for g, heads in enumerate(zip(*(part.heads() for part in parts), strict=True)):
        head = _join_head(heads)
        n, mine = head[0].shape[0], slice(g * rep, (g + 1) * rep)
        step = max(1, LOGITS_AT_ONCE // (B * rep * (n + t)))
        for at in range(0, Q, step):
            rows = slice(at, at + step)
            logits = _head_logits(query[:, mine, rows], head, key[:, g, None], scaling)
            if mask is not None:
                logits[..., n:].masked_fill_(~mask[:, :, rows], float("-inf"))
            if window is not None:
                hidden = head[2][None, :] <= held.positions[:, t - Q :][:, rows, None] - window  # [B, q, n]
                logits[..., :n].masked_fill_(hidden[:, None], float("-inf"))
            mass[:, mine, rows] = logits.logsumexp(-1)  # [B, H/G, q]
            p = logits.softmax(-1).to(value.dtype)  # [B, H/G, q, n + t]
            out[:, mine, rows] = p[..., :n] @ head[1] + p[..., n:] @ value[:, g, None]
    return out, mass


def _join_head(heads: tuple[Head, ...]) -> Head:
    """Joins the slots of one head as if they were of one part."""
    if len(heads) == 1:
        return heads[0]
    keys, values, positions, biases = zip(*heads, strict=True)
    rows = [torch.zeros_like(p) if bias is None else bias for p, bias in zip(positions, biases, strict=True)]
    return torch.cat(keys), torch.cat(values), torch.cat(positions), torch.cat(rows)


def _head_logits(query: Tensor, head: Head, key: Tensor, scaling: float) -> Tensor:
    """Returns `[B, H/G, q, n + t]` float32 logits."""
    slots, bias = head[0], head[3]
    over_slots = (query @ slots.T).float() * scaling  # [B, H/G, q, n]
    if bias is not None:
        over_slots = over_slots + bias
    return torch.cat((over_slots, (query @ key.transpose(-1, -2)).float() * scaling), dim=-1)
