"""Segments as tensors of a file and back: names, shapes, and what each segment's entry in the manifest says of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer
from torch import Tensor

from holdfast.blocks.block import Kind, Origin
from holdfast.context.entropy_coding import (
    decode_rows,
    encode_rows,
    pack_positions,
    pack_scores,
    unpack_positions,
    unpack_scores,
)
from holdfast.context.segments import CompactContext, Segment, SoftSegment, StateSegment, TokenSegment
from holdfast.errors import BadOption
from holdfast.model.load import Model
from holdfast.model.quantized_slots import CODED, CODES, AnySlots, Form, QuantizedRows, QuantizedSlots, scale_group
from holdfast.model.slots import MODEL, Slots
from holdfast.model.state_bases import KINDS, require_bases


class StrictModel(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class SegmentEntry(StrictModel):
    """The tensors of one segment, as the manifest lists them."""

    kind: Literal["tokens", "soft", "state"]
    origins: list[tuple[int, str, int, int, int, int]]
    """Turn, kind, first and last character, first and last token of each block that it stands for."""
    lengths: list[list[int]] = []
    """Per layer, slots of each head (state segments only)."""
    form: Form = MODEL
    """The form of its slots."""
    step: float = 0.0
    """Of coded slots: the rounding step."""
    bases: str = ""
    """Of coded slots: the digest of the bases that they are coded in."""

    @model_serializer(mode="wrap")
    def _omit_default_form(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leaves out defaults of fields that format 1 did not know, so that its files keep their seal."""
        return {key: value for key, value in handler(self).items() if (key, value) not in LATER_DEFAULTS}


LATER_DEFAULTS = (("form", MODEL), ("step", 0.0), ("bases", ""))


def name_tensors(context: CompactContext) -> list[tuple[str, Tensor]]:
    """Returns all tensors of a context with their names in a file."""
    out: list[tuple[str, Tensor]] = []
    for i, segment in enumerate(context.segments):
        if isinstance(segment, StateSegment):
            for index, layer in enumerate(segment.layers):
                out += [(f"{i}.{index}.{field}", t) for field, t in _slot_tensors(layer)]
            coded = segment.form == CODED
            out += [(f"{i}.{n}.scores", pack_scores(t) if coded else t.float()) for n, t in enumerate(segment.scores)]
        elif isinstance(segment, SoftSegment):
            out += [(f"{i}.embeds", segment.embeds), (f"{i}.positions", segment.positions)]
        else:
            out += [(f"{i}.ids", segment.ids), (f"{i}.positions", segment.positions)]
    return out


def file_nbytes(context: CompactContext) -> int:
    """Returns the bytes that the slots of a context take in a file, with all that is kept of each."""
    compact = replace(context, segments=tuple(s for s in context.segments if not isinstance(s, TokenSegment)))
    return sum(tensor.nbytes for _, tensor in name_tensors(compact))


def _slot_tensors(slots: AnySlots) -> Iterator[tuple[str, Tensor]]:
    if isinstance(slots, QuantizedSlots) and slots.form == CODED:
        step = _step(slots)
        for name, codes in (("keys", slots.keys), ("values", slots.values)):
            if codes.basis is not None:
                yield name, encode_rows(codes, codes.basis, step)
        yield "positions", pack_positions(slots.positions, slots.lengths)
        if slots.bias is not None:
            yield "bias", slots.bias
        return
    for name, rows in (("keys", slots.keys), ("values", slots.values)):
        yield name, rows.codes if isinstance(rows, QuantizedRows) else rows
        if isinstance(rows, QuantizedRows) and rows.scales is not None:
            yield f"{name}_scales", rows.scales
    yield "positions", slots.positions
    if isinstance(slots, QuantizedSlots) and slots.centre is not None:
        yield "centre", slots.centre
    if slots.bias is not None:
        yield "bias", slots.bias


def describe_segment(segment: Segment) -> SegmentEntry:
    """Returns the manifest's entry of a segment."""
    origins = [(o.turn, o.kind.value, *o.chars, *o.tokens) for o in segment.origins]
    if isinstance(segment, StateSegment):
        lengths = [list(s.lengths) for s in segment.layers]
        coded = [s for s in segment.layers if isinstance(s, QuantizedSlots)] if segment.form == CODED else []
        step = max(map(_step, coded), default=0.0)
        bases = next((s.keys.basis.digest for s in coded if s.keys.basis is not None), "")
        return SegmentEntry(kind="state", origins=origins, lengths=lengths, form=segment.form, step=step, bases=bases)
    return SegmentEntry(kind="soft" if isinstance(segment, SoftSegment) else "tokens", origins=origins)


def read_segment(i: int, entry: SegmentEntry, tensors: Mapping[str, Tensor], model: Model) -> Segment:
    """Returns segment `i` of a file. Raises KeyError or ValueError if its tensors are not as its entry says."""
    origins = tuple(Origin(t, Kind(k), (c0, c1), (t0, t1)) for t, k, c0, c1, t0, t1 in entry.origins)
    if entry.kind == "tokens":
        ids = _check_tensor(tensors[f"{i}.ids"], (-1,), torch.int64)
        if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < model.hf.config.vocab_size:
            raise ValueError(f"segment {i} holds token ids outside the vocabulary")
        return TokenSegment(ids, _check_tensor(tensors[f"{i}.positions"], (len(ids),)), origins)
    if entry.kind == "soft":
        embeds = _check_tensor(tensors[f"{i}.embeds"], (-1, model.family.d_model))
        return SoftSegment(embeds, _check_tensor(tensors[f"{i}.positions"], (len(embeds),)), origins)
    if len(entry.lengths) != len(model.family.layers):
        raise ValueError(f"segment {i} has {len(entry.lengths)} layers, the model has {len(model.family.layers)}")
    layers: tuple[AnySlots, ...]
    if entry.form == CODED:
        layers = tuple(_read_coded(i, entry, tensors, model))
    else:
        layers = tuple(
            _read_slots(f"{i}.{index}", lengths, tensors, model, entry.form)
            for index, lengths in enumerate(entry.lengths)
        )
    return StateSegment(layers, origins, _read_scores(i, layers, tensors, entry.form))


def _step(slots: QuantizedSlots) -> float:
    """Returns the step of coded slots, which all of a segment share; 0 where there are none."""
    scales = slots.keys.scales
    return float(scales.max()) if scales is not None and len(scales) else 0.0


def _read_coded(i: int, entry: SegmentEntry, tensors: Mapping[str, Tensor], model: Model) -> Iterator[QuantizedSlots]:
    """Yields the coded slots of each layer. Raises ValueError if the entry or the bytes do not fit the model."""
    try:
        bases = require_bases(model.digest, model.name, entry.bases)
    except BadOption as error:
        raise ValueError(str(error)) from error
    if not 0 <= entry.step < float("inf") or bases.layers.keys() != set(range(len(entry.lengths))):
        raise ValueError(f"segment {i} is coded with the step {entry.step} and bases of {len(bases.layers)} layers")
    for index, given in enumerate(entry.lengths):
        prefix, lengths = f"{i}.{index}", _check_lengths(f"{i}.{index}", given, model)
        rows = [
            decode_rows(tensors[f"{prefix}.{name}"], basis, lengths, entry.step)
            for name, basis in zip(KINDS, bases.layers[index], strict=True)
        ]
        bias = tensors.get(f"{prefix}.bias")
        bias = None if bias is None else _check_tensor(bias, (sum(lengths),))
        positions = _check_tensor(unpack_positions(tensors[f"{prefix}.positions"], lengths), (sum(lengths),))
        yield QuantizedSlots(rows[0], rows[1], positions, bias, lengths, torch.tensor(lengths)[:, None], None)


def _check_lengths(prefix: str, lengths: list[int], model: Model) -> tuple[int, ...]:
    if len(lengths) != model.family.kv_heads or any(x < 0 for x in lengths):
        raise ValueError(f"layer {prefix} needs {model.family.kv_heads} head lengths, got {lengths}")
    return tuple(lengths)


def _read_scores(i: int, layers: tuple[AnySlots, ...], tensors: Mapping[str, Tensor], form: Form) -> tuple[Tensor, ...]:
    """Returns the worth of each slot, `[N]` per layer; none in older files and for methods without scores."""
    if f"{i}.0.scores" not in tensors:
        return ()
    names = [f"{i}.{index}.scores" for index in range(len(layers))]
    if form == CODED:
        return tuple(
            unpack_scores(tensors[name], sum(layer.lengths)) for name, layer in zip(names, layers, strict=True)
        )
    scores = tuple(_check_tensor(tensors[name], (-1,), torch.float32) for name in names)
    for index, (layer, given) in enumerate(zip(layers, scores, strict=True)):
        if len(given) not in (0, sum(layer.lengths)):
            raise ValueError(f"layer {i}.{index} has {sum(layer.lengths)} slots and {len(given)} scores")
    return scores


def _read_slots(prefix: str, lengths: list[int], tensors: Mapping[str, Tensor], model: Model, form: Form) -> AnySlots:
    n, D = sum(_check_lengths(prefix, lengths, model)), model.family.head_dim
    bias = tensors.get(f"{prefix}.bias")
    bias = None if bias is None else _check_tensor(bias, (n,))
    positions = _check_tensor(tensors[f"{prefix}.positions"], (n,))
    if form == MODEL:
        keys, values = (_check_tensor(tensors[f"{prefix}.{name}"], (n, D)) for name in ("keys", "values"))
        return Slots(keys, values, positions, bias, tuple(lengths))
    k, v = (_read_rows(f"{prefix}.{name}", n, D, tensors, form) for name in ("keys", "values"))
    centre = tensors[f"{prefix}.centre"] if form != "bfloat16" else None
    if centre is not None:
        centre = _check_tensor(centre, (len(lengths), 1, D), torch.bfloat16)
    return QuantizedSlots(k, v, positions, bias, tuple(lengths), torch.tensor(lengths)[:, None], centre)


def _read_rows(name: str, n: int, D: int, tensors: Mapping[str, Tensor], form: Form) -> QuantizedRows:
    """Reads codes and scales of `n` rows; every code of four or eight bits means a number."""
    codes = _check_tensor(tensors[name], (n, D // 2 if form == "int4" else D), CODES[form])
    if form == "bfloat16":
        return QuantizedRows(codes, None)
    return QuantizedRows(codes, _check_tensor(tensors[f"{name}_scales"], (n, D // scale_group(D)), torch.bfloat16))


def _check_tensor(tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> Tensor:
    fits = tensor.ndim == len(shape) and all(want in (-1, got) for want, got in zip(shape, tensor.shape, strict=True))
    if not fits or (tensor.dtype != dtype if dtype else not tensor.is_floating_point()):
        raise ValueError(f"expected a tensor of shape {list(shape)}, got {tensor.dtype} {list(tensor.shape)}")
    if tensor.is_floating_point() and not torch.isfinite(tensor).all():
        raise ValueError("a tensor holds values that are not finite")
    return tensor
