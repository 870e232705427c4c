"""One file per context: safetensors with a manifest. Reading it never runs code and never leaves the file.

All metadata is one JSON string, because several metadata keys would make the bytes of equal contexts differ.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NoReturn

import torch
from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, ValidationError, model_serializer
from safetensors import SafetensorError, safe_open
from safetensors.torch import load as deserialized
from safetensors.torch import save as serialized
from safetensors.torch import save_file
from torch import Tensor

from holdfast.blocks.block import Kind, Origin
from holdfast.context.segments import CompactContext, Segment, SoftSegment, StateSegment, TokenSegment
from holdfast.errors import BadContext, BadInput
from holdfast.model.load import Model
from holdfast.model.quantized_slots import CODES, AnySlots, Form, QuantizedRows, QuantizedSlots, scale_group
from holdfast.model.slots import MODEL, Slots
from holdfast.storage.backends import fetch, local, send
from holdfast.storage.files import install, workshop

FORMATS = (1, 2)
"""1: all slots as a model computes them; 2: some segment holds coded slots."""
KEY = "holdfast"
LAST_POSITION = 1 << 24  # float32 counts no further one by one


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class SegmentEntry(_Strict):
    """What the tensors of one segment are."""

    kind: Literal["tokens", "soft", "state"]
    origins: list[tuple[int, str, int, int, int, int]]
    """Turn, kind, first and last character, first and last token of each block that it stands for."""
    lengths: list[list[int]] = []
    """Per layer, slots of each head (state segments only)."""
    form: Form = MODEL
    """How its slots are held."""

    @model_serializer(mode="wrap")
    def _without_the_default_form(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """What format 1 did not know is not written, so that its files keep their seal."""
        return {key: value for key, value in handler(self).items() if (key, value) != ("form", MODEL)}


class Manifest(_Strict):
    """Everything about a stored context that is not a tensor."""

    format: int
    model: str
    model_digest: str
    tokenizer_digest: str
    template_digest: str
    dtype: str
    next_position: int
    segments: list[SegmentEntry]
    recipe: dict[str, Any]
    evidence: dict[str, Any]
    sha256: str
    """Of all tensors, in the order of their names."""
    seal: str = ""
    """sha256 of this manifest as it is written with an empty seal."""


def save(context: CompactContext, path: str | Path, model: Model) -> Path | str:
    """Write `context`, made with `model`, to `path` or to any URL of fsspec; the file appears whole or not at all.

    Raises BadInput where it cannot be written, could not be read again (numbers that are not finite), or where a file
    stands that is no context; BadContext for a context of another model; Failed where a URL cannot be written.
    """
    _check_made_with(context, model)
    check_target(path)
    tensors, metadata = _parts(context, model, path)
    file = local(path)
    if file is None:
        send(str(path), serialized(tensors, metadata))
        return str(path)
    try:
        with workshop(file.parent) as folder:
            save_file(tensors, folder / "context", metadata=metadata)
            install(folder / "context", file)
    except (OSError, SafetensorError) as error:
        raise BadInput(f"cannot write {file}: {error}") from error
    return file


def to_bytes(context: CompactContext, model: Model) -> bytes:
    """The bytes of the file that `save` would write. Raises BadInput and BadContext as it does."""
    _check_made_with(context, model)
    data: bytes = serialized(*_parts(context, model, "the context"))
    return data


def check_target(path: str | Path) -> None:
    """Raise BadInput where a context cannot be written without harm; worth asking before any work is done."""
    file = local(path)
    if file is None:
        taken = fetch(str(path)) is not None
    elif not file.name or file.is_dir() or not file.parent.is_dir():
        raise BadInput(f"{path}: give a file in a folder that exists, e.g. out.holdfast")
    else:
        taken = file.exists()
    if taken:
        try:
            read_manifest(path)
        except BadContext as error:
            raise BadInput(f"{path} exists and is no .holdfast file; give another name") from error


def read_manifest(path: str | Path) -> Manifest:
    """The manifest alone; of a file, without loading tensors. Raises BadContext when it is not a sound context file."""
    file = local(path)
    if file is None:
        return _manifest(path, _unpacked(path, _fetched(str(path)))[1])
    try:
        with safe_open(file, framework="pt") as opened:
            return _manifest(path, opened.metadata())
    except (SafetensorError, OSError) as error:
        _unreadable(file, error)


def load(path: str | Path, model: Model) -> CompactContext:
    """Read a context for `model` from a file or from any URL of fsspec.

    Raises BadContext when it is damaged or was made with another model, tokenizer or chat template; Failed where a URL
    cannot be read.
    """
    file = local(path)
    if file is None:
        return from_bytes(_fetched(str(path)), model, str(path))
    try:
        with safe_open(file, framework="pt") as opened:
            manifest = _manifest(file, opened.metadata())
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  (not a mapping)
    except (SafetensorError, OSError) as error:
        _unreadable(file, error)
    return _context(file, manifest, tensors, model)


def from_bytes(data: bytes, model: Model, name: str = "the stored context") -> CompactContext:
    """Read what `to_bytes` gave, or the bytes of a file; `name` stands in errors. Raises BadContext as `load` does."""
    tensors, metadata = _unpacked(name, data)
    return _context(name, _manifest(name, metadata), tensors, model)


def _check_made_with(context: CompactContext, model: Model) -> None:
    if context.model_digest not in ("", model.digest):
        raise BadContext(f"this context was made with another model than {model.name}; save it with that one")


def _parts(context: CompactContext, model: Model, name: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors of a context, and the manifest as metadata."""
    segments = [_entry(segment) for segment in context.segments]
    tensors = {key: t.detach().to("cpu").clone(memory_format=torch.contiguous_format) for key, t in _tensors(context)}
    if odd := [key for key, t in tensors.items() if t.is_floating_point() and not torch.isfinite(t).all()]:
        raise BadInput(
            f"{name} is not written: {odd[0]} of the context is not finite, so that it could not be read again; use "
            "float32, or options of the method that are nearer to its defaults"
        )
    manifest = Manifest(
        format=_format(segments),
        model=model.name,
        model_digest=model.digest,
        tokenizer_digest=model.tokenizer_digest,
        template_digest=model.template_digest,
        dtype=str(model.dtype).removeprefix("torch."),
        next_position=context.next_position,
        segments=segments,
        recipe=dict(context.recipe),
        evidence=dict(context.evidence),
        sha256=_digest(tensors),
    )
    manifest = manifest.model_copy(update={"seal": _seal(manifest)})
    return tensors, {KEY: manifest.model_dump_json()}


def _unpacked(name: str | Path, data: bytes) -> tuple[dict[str, Tensor], dict[str, str] | None]:
    """The tensors and the metadata of a safetensors file, whose header starts with its length in eight bytes."""
    try:
        tensors = deserialized(data)
        return tensors, json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__")
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
        _not_whole(name, error)


def _fetched(url: str) -> bytes:
    data = fetch(url)
    if data is None:
        raise BadContext(f"{url}: no such file")
    return data


def _context(name: str | Path, manifest: Manifest, tensors: Mapping[str, Tensor], model: Model) -> CompactContext:
    """What the manifest and the tensors say together, of this model and whole."""
    _check_model(name, manifest, model)
    if _digest(tensors) != manifest.sha256:
        raise BadContext(f"{name}: its tensors are not the ones that were saved; make it again with `holdfast compact`")
    try:
        segments = tuple(_segment(i, entry, tensors, model) for i, entry in enumerate(manifest.segments))
        context = CompactContext(
            segments, manifest.next_position, manifest.recipe, manifest.evidence, manifest.model_digest
        )
        if unknown := tensors.keys() - dict(_tensors(context)).keys():
            raise ValueError(f"no segment holds the tensor {min(unknown)!r}")
        if manifest.next_position > LAST_POSITION:
            raise ValueError(f"next_position {manifest.next_position} is beyond {LAST_POSITION}")
        return context
    except (KeyError, ValueError, RuntimeError) as error:
        raise BadContext(f"{name}: the manifest does not fit the tensors ({error})") from error


def _tensors(context: CompactContext) -> list[tuple[str, Tensor]]:
    out: list[tuple[str, Tensor]] = []
    for i, segment in enumerate(context.segments):
        if isinstance(segment, StateSegment):
            for index, layer in enumerate(segment.layers):
                out += [(f"{i}.{index}.{field}", t) for field, t in _slot_tensors(layer)]
            out += [(f"{i}.{index}.scores", t.float()) for index, t in enumerate(segment.scores)]
        elif isinstance(segment, SoftSegment):
            out += [(f"{i}.embeds", segment.embeds), (f"{i}.positions", segment.positions)]
        else:
            out += [(f"{i}.ids", segment.ids), (f"{i}.positions", segment.positions)]
    return out


def _slot_tensors(slots: AnySlots) -> Iterator[tuple[str, Tensor]]:
    for name, rows in (("keys", slots.keys), ("values", slots.values)):
        yield name, rows.codes if isinstance(rows, QuantizedRows) else rows
        if isinstance(rows, QuantizedRows) and rows.scales is not None:
            yield f"{name}_scales", rows.scales
    yield "positions", slots.positions
    if isinstance(slots, QuantizedSlots) and slots.centre is not None:
        yield "centre", slots.centre
    if slots.bias is not None:
        yield "bias", slots.bias


def _format(segments: list[SegmentEntry]) -> int:
    return FORMATS[any(segment.form != MODEL for segment in segments)]


def _entry(segment: Segment) -> SegmentEntry:
    origins = [(o.turn, o.kind.value, *o.chars, *o.tokens) for o in segment.origins]
    if isinstance(segment, StateSegment):
        lengths = [list(s.lengths) for s in segment.layers]
        return SegmentEntry(kind="state", origins=origins, lengths=lengths, form=segment.form)
    return SegmentEntry(kind="soft" if isinstance(segment, SoftSegment) else "tokens", origins=origins)


def _segment(i: int, entry: SegmentEntry, tensors: Mapping[str, Tensor], model: Model) -> Segment:
    origins = tuple(Origin(t, Kind(k), (c0, c1), (t0, t1)) for t, k, c0, c1, t0, t1 in entry.origins)
    if entry.kind == "tokens":
        ids = _shaped(tensors[f"{i}.ids"], (-1,), torch.int64)
        if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < model.hf.config.vocab_size:
            raise ValueError(f"segment {i} holds token ids outside the vocabulary")
        return TokenSegment(ids, _shaped(tensors[f"{i}.positions"], (len(ids),)), origins)
    if entry.kind == "soft":
        embeds = _shaped(tensors[f"{i}.embeds"], (-1, model.family.d_model))
        return SoftSegment(embeds, _shaped(tensors[f"{i}.positions"], (len(embeds),)), origins)
    if len(entry.lengths) != len(model.family.layers):
        raise ValueError(f"segment {i} has {len(entry.lengths)} layers, the model has {len(model.family.layers)}")
    layers = tuple(
        _slots(f"{i}.{index}", lengths, tensors, model, entry.form) for index, lengths in enumerate(entry.lengths)
    )
    return StateSegment(layers, origins, _scores(i, layers, tensors))


def _scores(i: int, layers: tuple[AnySlots, ...], tensors: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    """What each slot was worth, of every layer or (in older files, and for methods without scores) of none."""
    if f"{i}.0.scores" not in tensors:
        return ()
    scores = tuple(_shaped(tensors[f"{i}.{index}.scores"], (-1,), torch.float32) for index in range(len(layers)))
    for index, (layer, given) in enumerate(zip(layers, scores, strict=True)):
        if len(given) not in (0, sum(layer.lengths)):
            raise ValueError(f"layer {i}.{index} has {sum(layer.lengths)} slots and {len(given)} scores")
    return scores


def _slots(prefix: str, lengths: list[int], tensors: Mapping[str, Tensor], model: Model, form: Form) -> AnySlots:
    n, D = sum(lengths), model.family.head_dim
    if len(lengths) != model.family.kv_heads or any(x < 0 for x in lengths):
        raise ValueError(f"layer {prefix} needs {model.family.kv_heads} head lengths, got {lengths}")
    bias = tensors.get(f"{prefix}.bias")
    bias = None if bias is None else _shaped(bias, (n,))
    positions = _shaped(tensors[f"{prefix}.positions"], (n,))
    if form == MODEL:
        keys, values = (_shaped(tensors[f"{prefix}.{name}"], (n, D)) for name in ("keys", "values"))
        return Slots(keys, values, positions, bias, tuple(lengths))
    k, v = (_coded(f"{prefix}.{name}", n, D, tensors, form) for name in ("keys", "values"))
    centre = tensors[f"{prefix}.centre"] if form != "bfloat16" else None
    if centre is not None:
        centre = _shaped(centre, (len(lengths), 1, D), torch.bfloat16)
    return QuantizedSlots(k, v, positions, bias, tuple(lengths), torch.tensor(lengths)[:, None], centre)


def _coded(name: str, n: int, D: int, tensors: Mapping[str, Tensor], form: Form) -> QuantizedRows:
    """Codes and scales of `n` rows; every code of four or eight bits means a number."""
    codes = _shaped(tensors[name], (n, D // 2 if form == "int4" else D), CODES[form])
    if form == "bfloat16":
        return QuantizedRows(codes, None)
    return QuantizedRows(codes, _shaped(tensors[f"{name}_scales"], (n, D // scale_group(D)), torch.bfloat16))


def _shaped(tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> Tensor:
    fits = tensor.ndim == len(shape) and all(want in (-1, got) for want, got in zip(shape, tensor.shape, strict=True))
    if not fits or (tensor.dtype != dtype if dtype else not tensor.is_floating_point()):
        raise ValueError(f"expected a tensor of shape {list(shape)}, got {tensor.dtype} {list(tensor.shape)}")
    if tensor.is_floating_point() and not torch.isfinite(tensor).all():
        raise ValueError("a tensor holds values that are not finite")
    return tensor


def _manifest(path: str | Path, metadata: Mapping[str, str] | None) -> Manifest:
    text = (metadata or {}).get(KEY)
    if text is None:
        raise BadContext(f"{path}: a safetensors file, but not a Holdfast context")
    try:
        version = json.loads(text).get("format")
        if version not in FORMATS:
            known = " and ".join(map(str, FORMATS))
            raise BadContext(f"{path}: format {version!r}; this version of Holdfast reads formats {known}")
        manifest = Manifest.model_validate_json(text)
    except (ValidationError, ValueError, AttributeError, RecursionError) as error:
        raise BadContext(f"{path}: its manifest is damaged ({str(error).splitlines()[0]})") from error
    if manifest.format != _format(manifest.segments):
        raise BadContext(f"{path}: its manifest is damaged (format {manifest.format} does not hold its segments)")
    if manifest.seal != _seal(manifest):
        raise BadContext(f"{path}: its manifest is not the one that was saved; make it again with `holdfast compact`")
    return manifest


def _check_model(path: str | Path, manifest: Manifest, model: Model) -> None:
    pairs = (
        ("model", manifest.model_digest, model.digest),
        ("tokenizer", manifest.tokenizer_digest, model.tokenizer_digest),
        ("chat template", manifest.template_digest, model.template_digest),
    )
    for what, stored, own in pairs:
        if stored != own:
            raise BadContext(
                f"{path}: made with {manifest.model!r}, whose {what} (digest {stored}) is not that of {model.name!r} "
                f"({own}); load the model that it was made with"
            )


def _seal(manifest: Manifest) -> str:
    return hashlib.sha256(manifest.model_copy(update={"seal": ""}).model_dump_json().encode()).hexdigest()


def _digest(tensors: Mapping[str, Tensor]) -> str:
    state = hashlib.sha256()
    for name in sorted(tensors):
        t = tensors[name]
        state.update(f"{name}{t.dtype}{tuple(t.shape)}".encode())
        state.update(t.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if t.numel() else b"")
    return state.hexdigest()


def _unreadable(path: Path, error: Exception) -> NoReturn:
    if not path.exists():
        raise BadContext(f"{path}: no such file") from error
    _not_whole(path, error)


def _not_whole(name: str | Path, error: Exception) -> NoReturn:
    raise BadContext(f"{name}: not a whole .holdfast file ({error}); make it again with `holdfast compact`") from error
