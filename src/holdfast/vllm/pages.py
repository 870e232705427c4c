"""A context as pages of vLLM's cache: as many slots in every head, consecutive positions, no bias, plain numbers.

What pages cannot hold is converted, with the price in the report, or refused by name.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from holdfast.context.cache import SlotLayer
from holdfast.context.packing import join
from holdfast.context.segments import CompactContext, StateSegment, TokenSegment
from holdfast.engine.kv_context import KVContext, open_context
from holdfast.errors import BadContext, BadInput, BadOption, UnsupportedModel
from holdfast.model.load import Model
from holdfast.model.slots import Slots
from holdfast.vllm.files import Header, Pages
from holdfast.vllm.padding_keys import PaddingKeys, choose_padding_keys

Head = tuple[Tensor, Tensor]
"""Rotated keys and values `[n, D]` of one head."""
LEAK = 1e-3  # of attention: what padding may take before it is refused


@dataclass(frozen=True)
class Options:
    """Options by which a context is fitted to pages."""

    block_size: int = 128
    """Of vLLM's cache: its `--block-size`."""
    lengths: Literal["equal", "pad"] = "equal"
    """`equal` refuses heads of different lengths; `pad` fills the shorter ones with slots that no query looks at, so
    that every head takes as many blocks as the longest."""
    bias: Literal["none", "repeat"] = "none"
    """`none` refuses slots with a bias; `repeat` stores such a slot `round(exp(bias))` times."""
    reach: int = 4096
    """Tokens behind the context for which padding is made invisible."""

    def __post_init__(self) -> None:
        if self.block_size < 1 or self.reach < 1:
            raise BadOption(f"block_size and reach must be at least 1, got {self.block_size} and {self.reach}")
        if self.lengths not in ("equal", "pad") or self.bias not in ("none", "repeat"):
            raise BadOption(
                f"lengths must be equal or pad and bias none or repeat, got {self.lengths!r} and {self.bias!r}"
            )


@dataclass(frozen=True)
class Conversion:
    """Figures of a conversion, over all layers and heads."""

    tokens: int
    """Of the session that it stands for."""
    held: int
    """KV pairs of the opened context."""
    placed: int
    """KV pairs of the pages and of the tail behind them."""
    padded: int = 0
    """Of those placed, padding."""
    repeated: int = 0
    """Of those placed, copies that stand for a bias."""
    rounding: float = 0.0
    """Largest error of a bias, in nats."""
    leak: float = 0.0
    """Most attention that padding took of a query that it was not made for."""
    decoded: tuple[str, ...] = ()
    """Forms in which slots were stored in fewer bits."""


def to_pages(model: Model, context: CompactContext, options: Options | None = None) -> Pages:
    """Pages of `context` for a server of the same model.

    Verbatim tokens at the end that do not fill a block become the `tail`, which the server reads itself. Raises
    BadContext for another model's context, UnsupportedModel for sliding layers, and BadInput for what the options do
    not allow to convert.
    """
    options = options or Options()
    check(model, context)
    with torch.no_grad():
        live = open_context(model, context)
        layers = [_plain(live, index) for index in range(len(model.family.layers))]
        report = Conversion(
            context.next_position, sum(sum(s.lengths) for s in layers), 0, decoded=_quantized_layers(context)
        )
        heads, report = _repeat_by_bias(layers, options, report)
        n, tail = _split_tail(heads, context, options)
        heads = [[(k[: len(k) - len(tail)], v[: len(v) - len(tail)]) for k, v in layer] for layer in heads]
        filled, report = _pad_heads(heads, n, (live, context, options), report)
        keys, values = zip(*filled, strict=True)
        shift = float(n + len(tail) - context.next_position)
        moved = tuple(_move_keys(model, i, k, shift) for i, k in enumerate(keys))
    pairs = len(layers) * model.family.kv_heads
    report = replace(report, placed=(n + len(tail)) * pairs)
    header = Header(model.digest, n, len(layers), model.family.kv_heads, model.family.head_dim, tail, asdict(report))
    return Pages(header, moved, tuple(v.contiguous().cpu() for v in values))


def check(model: Model, context: CompactContext) -> None:
    """Raises BadContext or UnsupportedModel where the context can never be paged for `model`."""
    if context.model_digest not in ("", model.digest):
        raise BadContext(f"this context was made with another model than {model.name}; page it with that one")
    for index, layer in enumerate(model.family.layers):
        if layer.window is not None:
            raise UnsupportedModel(
                f"layer {index} of {model.name} slides over {layer.window} tokens; vLLM keeps such layers in blocks "
                "of their own, which pages do not describe; serve a model with full attention in every layer"
            )


def _plain(live: KVContext, index: int) -> Slots:
    """Returns one layer of an open context as one run of rotated slots, the newest tokens last in each head."""
    held: SlotLayer = live.cache.layers[index].copy()
    held.freeze()
    parts = [part.plain(live.model.dtype) for part in (*held.quantized, held.slots) if part is not None]
    if not parts:
        raise BadInput("the context is empty: there is nothing to page")
    return join(parts)


def _quantized_layers(context: CompactContext) -> tuple[str, ...]:
    forms = {s.form for s in context.segments if isinstance(s, StateSegment)}
    return tuple(sorted(forms - {"model"}))


def _repeat_by_bias(
    layers: Sequence[Slots], options: Options, report: Conversion
) -> tuple[list[list[Head]], Conversion]:
    """Replaces biases by repeats: a slot of mass `exp(bias)` becomes that many slots, rounded, at least one."""
    heads: list[list[Head]] = []
    repeated, rounding = 0, 0.0
    for index, layer in enumerate(layers):
        heads.append([])
        for keys, values, _, bias in layer.heads():
            if bias is None or not bool(bias.any()):
                heads[-1].append((keys, values))
                continue
            if options.bias == "none":
                raise BadInput(
                    f"layer {index} has slots with a bias, which vLLM's attention cannot add; page it with "
                    "bias='repeat' (each slot as often as it counts), or use a method without biases"
                )
            times = bias.exp().round().clamp_min(1).long()
            repeated += int(times.sum()) - len(times)
            rounding = max(rounding, float((bias - times.log()).abs().max()))
            heads[-1].append((keys.repeat_interleave(times, 0), values.repeat_interleave(times, 0)))
    return heads, replace(report, repeated=repeated, rounding=round(rounding, 4))


def _split_tail(
    heads: Sequence[Sequence[Head]], context: CompactContext, options: Options
) -> tuple[int, tuple[int, ...]]:
    """Returns the slots of the pages, and the verbatim ids at the end that do not fill a block."""
    lengths = [len(keys) for layer in heads for keys, _ in layer]
    if options.lengths == "equal" and min(lengths) < max(lengths):
        raise BadInput(
            f"heads hold {min(lengths)} to {max(lengths)} slots, and vLLM's blocks give each as many; compact with "
            "allocation=head (equal lengths) or cap=2 (at most twice the mean), or page with lengths='pad'"
        )
    block, longest, last = options.block_size, max(lengths), context.segments[-1]
    over = longest % block
    if isinstance(last, TokenSegment) and len(last) >= over and _follows_on(last, context.next_position):
        n, tail = longest - over, tuple(last.ids[len(last) - over :].tolist())
    else:
        n, tail = longest + (block - over) % block, ()
    if n == 0:
        raise BadInput(f"the context does not fill one block of {block} slots; send it as tokens, or lower block_size")
    return n, tail


def _follows_on(last: TokenSegment, end: int) -> bool:
    """Returns True if the tokens stand one behind another right up to the next one."""
    return torch.equal(last.positions, torch.arange(end - len(last), end, dtype=torch.float32))


def _pad_heads(
    heads: Sequence[Sequence[Head]], n: int, of: tuple[KVContext, CompactContext, Options], report: Conversion
) -> tuple[list[tuple[Tensor, Tensor]], Conversion]:
    """Returns keys and values `[n, G, D]` per layer; shorter heads end in padding."""
    live, context, options = of
    hiding: list[PaddingKeys] | None = None
    if any(len(keys) < n for layer in heads for keys, _ in layer):
        hiding = choose_padding_keys(live, verbatim(context), n, options.reach)
    out, padded, leak = [], 0, 0.0
    for index, layer in enumerate(heads):
        rows = []
        for g, (keys, values) in enumerate(layer):
            if hiding is None:
                rows.append((keys, values))
                continue
            missing = n - len(keys)
            padding = hiding[index].keys[g].to(keys.dtype).expand(missing, -1)
            rows.append((torch.cat((keys, padding)), torch.cat((values, values.new_zeros(missing, values.shape[1])))))
            padded, leak = padded + missing, max(leak, missing * float(hiding[index].share[g]))
        out.append((torch.stack([k for k, _ in rows], 1), torch.stack([v for _, v in rows], 1)))
    if leak > LEAK:
        raise BadInput(
            f"padding would take up to {leak:.2g} of the attention (most {LEAK:g}); compact with allocation=head"
        )
    return out, replace(report, padded=padded, leak=float(f"{leak:.2g}"))


def verbatim(context: CompactContext) -> list[int]:
    """Returns the token ids that stand in a context verbatim."""
    return [i for s in context.segments if isinstance(s, TokenSegment) for i in s.ids.tolist()]


def _move_keys(model: Model, layer: int, keys: Tensor, shift: float) -> Tensor:
    """Moves keys `[n, G, D]` to positions `shift` later: attention knows distances alone."""
    zero = torch.zeros(keys.shape[0], keys.shape[1], device=keys.device)
    return model.family.layers[layer].rope.move(keys, zero, zero + shift).contiguous().cpu()


def __getattr__(name: str) -> object:
    if name != "paged":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn("holdfast.vllm.pages.paged is called to_pages now", DeprecationWarning, stacklevel=2)
    return to_pages
