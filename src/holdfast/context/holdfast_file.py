"""The .holdfast file: one context as safetensors with a manifest. Reading it never runs code and never leaves the file.

All metadata is one JSON string, because several metadata keys would make the bytes of equal contexts differ. A new
version of the format is one more number in `FORMATS`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load as deserialized
from safetensors.torch import save as serialized
from safetensors.torch import save_file
from torch import Tensor

from holdfast.context.segment_tensors import SegmentEntry, StrictModel, describe_segment, name_tensors, read_segment
from holdfast.context.segments import CompactContext
from holdfast.errors import BadContext, BadInput
from holdfast.model.load import Model
from holdfast.model.quantized_slots import CODED
from holdfast.model.slots import MODEL
from holdfast.progress import Progress, quiet, track
from holdfast.storage.backends import fetch, local, send
from holdfast.storage.files import install, workshop

FORMATS = (1, 2, 3)
"""Versions. 1: all slots as a model computes them; 2: some segment holds quantized slots; 3: coded ones."""
KEY = "holdfast"
LAST_POSITION = 1 << 24  # float32 counts no further one by one


class Manifest(StrictModel):
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


def save(context: CompactContext, path: str | Path, model: Model, progress: Progress = quiet) -> Path | str:
    """Writes `context`, made with `model`, to `path` or to any URL of fsspec; the file appears whole or not at all.

    `progress` is told of each tensor whose digest is taken, and of the writing.
    Raises BadInput where it cannot be written, could not be read again (numbers that are not finite), or where a file
    stands that is no context; BadContext for a context of another model; Failed where a URL cannot be written.
    """
    _check_owner(context, model)
    check_target(path)
    tensors, metadata = _serialize(context, model, path, progress)
    file = local(path)
    progress("write", 0, 1, str(path))
    if file is None:
        send(str(path), serialized(tensors, metadata))
    else:
        _write(tensors, metadata, file)
    progress("write", 1, 1, "")
    return str(path) if file is None else file


def _write(tensors: dict[str, Tensor], metadata: dict[str, str], file: Path) -> None:
    try:
        with workshop(file.parent) as folder:
            save_file(tensors, folder / "context", metadata=metadata)
            install(folder / "context", file)
    except (OSError, SafetensorError) as error:
        raise BadInput(f"cannot write {file}: {error}") from error


def to_bytes(context: CompactContext, model: Model, progress: Progress = quiet) -> bytes:
    """Returns the bytes of the file that `save` would write. Raises BadInput and BadContext as it does."""
    _check_owner(context, model)
    data: bytes = serialized(*_serialize(context, model, "the context", progress))
    return data


def check_target(path: str | Path) -> None:
    """Raises BadInput if a context cannot be written without harm; worth asking before any work is done."""
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
    """Returns the manifest; of a file, without loading tensors. Raises BadContext if it is not a sound context file."""
    file = local(path)
    if file is None:
        return _manifest(path, _unpack(path, _fetch_bytes(str(path)))[1])
    try:
        with safe_open(file, framework="pt") as opened:
            return _manifest(path, opened.metadata())
    except (SafetensorError, OSError) as error:
        _raise_unreadable(file, error)


def load(path: str | Path, model: Model, progress: Progress = quiet) -> CompactContext:
    """Reads a context for `model` from a file or from any URL of fsspec; `progress` is told of each tensor.

    Raises BadContext when it is damaged or was made with another model, tokenizer or chat template; Failed where a URL
    cannot be read.
    """
    file = local(path)
    if file is None:
        progress("fetch", 0, 1, str(path))
        return from_bytes(_fetch_bytes(str(path)), model, str(path), progress)
    try:
        with safe_open(file, framework="pt") as opened:
            manifest = _manifest(file, opened.metadata())
            tensors = {name: opened.get_tensor(name) for name in track(opened.keys(), "restore", progress)}
    except (SafetensorError, OSError) as error:
        _raise_unreadable(file, error)
    return _build_context(file, manifest, tensors, model, progress)


def from_bytes(
    data: bytes, model: Model, name: str = "the stored context", progress: Progress = quiet
) -> CompactContext:
    """Reads the bytes of `to_bytes` or of a file; `name` stands in errors. Raises BadContext as `load` does."""
    tensors, metadata = _unpack(name, data)
    return _build_context(name, _manifest(name, metadata), tensors, model, progress)


def _check_owner(context: CompactContext, model: Model) -> None:
    if context.model_digest not in ("", model.digest):
        raise BadContext(f"this context was made with another model than {model.name}; save it with that one")


def _serialize(
    context: CompactContext, model: Model, name: str | Path, progress: Progress
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Returns all tensors of a context, and the manifest as metadata."""
    segments = [describe_segment(segment) for segment in context.segments]
    tensors = {
        key: t.detach().to("cpu").clone(memory_format=torch.contiguous_format) for key, t in name_tensors(context)
    }
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
        sha256=_digest(tensors, progress),
    )
    manifest = manifest.model_copy(update={"seal": _seal(manifest)})
    return tensors, {KEY: manifest.model_dump_json()}


def _unpack(name: str | Path, data: bytes) -> tuple[dict[str, Tensor], dict[str, str] | None]:
    """Returns tensors and metadata of a safetensors file, whose header starts with its length in eight bytes."""
    try:
        tensors = deserialized(data)
        return tensors, json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__")
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
        _raise_not_whole(name, error)


def _fetch_bytes(url: str) -> bytes:
    data = fetch(url)
    if data is None:
        raise BadContext(f"{url}: no such file")
    return data


def _build_context(
    name: str | Path, manifest: Manifest, tensors: Mapping[str, Tensor], model: Model, progress: Progress
) -> CompactContext:
    """Builds the context from its manifest and tensors. Raises BadContext if it is another model's or not whole."""
    _check_model(name, manifest, model)
    if _digest(tensors, progress) != manifest.sha256:
        raise BadContext(f"{name}: its tensors are not the ones that were saved; make it again with `holdfast compact`")
    try:
        segments = tuple(read_segment(i, entry, tensors, model) for i, entry in enumerate(manifest.segments))
        context = CompactContext(
            segments, manifest.next_position, manifest.recipe, manifest.evidence, manifest.model_digest
        )
        if unknown := tensors.keys() - dict(name_tensors(context)).keys():
            raise ValueError(f"no segment holds the tensor {min(unknown)!r}")
        if manifest.next_position > LAST_POSITION:
            raise ValueError(f"next_position {manifest.next_position} is beyond {LAST_POSITION}")
        return context
    except (KeyError, ValueError, RuntimeError) as error:
        raise BadContext(f"{name}: the manifest does not fit the tensors ({error})") from error


def _format(segments: list[SegmentEntry]) -> int:
    forms = {segment.form for segment in segments}
    return 3 if CODED in forms else 2 if forms - {MODEL} else 1


def _manifest(path: str | Path, metadata: Mapping[str, str] | None) -> Manifest:
    text = (metadata or {}).get(KEY)
    if text is None:
        raise BadContext(f"{path}: a safetensors file, but not a Holdfast context")
    try:
        version = json.loads(text).get("format")
        if version not in FORMATS:
            known = ", ".join(map(str, FORMATS))
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


def _digest(tensors: Mapping[str, Tensor], progress: Progress = quiet) -> str:
    state = hashlib.sha256()
    for name in track(sorted(tensors), "digest", progress):
        t = tensors[name]
        state.update(f"{name}{t.dtype}{tuple(t.shape)}".encode())
        state.update(t.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if t.numel() else b"")
    return state.hexdigest()


def _raise_unreadable(path: Path, error: Exception) -> NoReturn:
    if not path.exists():
        raise BadContext(f"{path}: no such file") from error
    _raise_not_whole(path, error)


def _raise_not_whole(name: str | Path, error: Exception) -> NoReturn:
    raise BadContext(f"{name}: not a whole .holdfast file ({error}); make it again with `holdfast compact`") from error
