"""Pages as files, and the placeholder ids that stand for them in a prompt.

Runs inside vLLM, so that it imports torch and safetensors alone. A file is called by the digest of what it holds, and
the ids spell that digest: one prompt can never mean two contents, which makes vLLM's own prefix cache right for pages.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from holdfast.errors import BadContext, BadInput
from holdfast.storage.files import install, workshop

FORMAT = 1
KEY = "holdfast_pages"
MARK = tuple(b"holdfast")
"""The first ids of every placeholder."""
DIGEST = 16  # bytes of a handle, an id each
HEAD = len(MARK) + DIGEST
FILL = 0


@dataclass(frozen=True)
class Header:
    """The shape and origin of pages, which can be read without their tensors."""

    model_digest: str
    slots: int
    """Of each head, a multiple of the block size."""
    layers: int
    kv_heads: int
    head_dim: int
    tail: tuple[int, ...]
    """Token ids that the server reads itself, right behind the pages."""
    report: Mapping[str, Any]
    """Figures of the conversion."""


@dataclass(frozen=True)
class Pages:
    """KV pairs of a context as a paged cache holds them."""

    header: Header
    keys: tuple[Tensor, ...]
    """Per layer `[slots, G, D]`, rotated for positions at which slot `i` stands at `i`."""
    values: tuple[Tensor, ...]

    @property
    def handle(self) -> str:
        """Digest of everything, in hexadecimal."""
        state = hashlib.sha256(_json(self.header).encode())
        for tensor in (*self.keys, *self.values):
            state.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
            state.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return state.hexdigest()[: 2 * DIGEST]

    @property
    def prompt(self) -> tuple[int, ...]:
        """Ids at the start of a prompt: placeholders, then the tail."""
        return (*placeholders(self.handle, self.header.slots), *self.header.tail)


def placeholders(handle: str, slots: int) -> tuple[int, ...]:
    """Returns the `slots` ids that stand for the pages called `handle`."""
    if slots < HEAD:
        raise BadInput(f"{slots} slots are too few for a handle of {HEAD} ids; send so short a context as tokens")
    return (*MARK, *bytes.fromhex(handle), *(FILL,) * (slots - HEAD))


def handle_of(ids: Sequence[int]) -> str | None:
    """Returns the handle at the start of a prompt, or None for an ordinary prompt."""
    if len(ids) < HEAD or tuple(ids[: len(MARK)]) != MARK or max(ids[:HEAD]) > 255:
        return None
    return bytes(ids[len(MARK) : HEAD]).hex()


def pages_path(folder: Path, handle: str) -> Path:
    return folder / f"{handle}.pages"


def write(pages: Pages, folder: str | Path) -> Path:
    """Writes pages; the file appears whole or not at all. Raises BadInput if it cannot be written."""
    path = pages_path(Path(folder), pages.handle)
    tensors = {f"{name}.{i}": t.contiguous() for name, ts in _tensors_by_name(pages) for i, t in enumerate(ts)}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with workshop(path.parent) as scratch:
            save_file(tensors, scratch / "pages", metadata={KEY: _json(pages.header)})
            install(scratch / "pages", path)
    except (OSError, SafetensorError) as error:
        raise BadInput(f"cannot write {path}: {error}") from error
    return path


def read_header(folder: str | Path, handle: str) -> Header:
    """Reads the header alone. Raises BadContext if there are no sound pages of that name."""
    path = pages_path(Path(folder), handle)
    try:
        with safe_open(path, framework="pt") as file:
            return _header(path, file.metadata())
    except (OSError, SafetensorError) as error:
        raise BadContext(_unreadable(path, error)) from error


def read(folder: str | Path, handle: str) -> Pages:
    """Reads pages by their handle. Raises BadContext if they are missing or damaged."""
    path = pages_path(Path(folder), handle)
    try:
        with safe_open(path, framework="pt") as file:
            header = _header(path, file.metadata())
            keys, values = (
                tuple(file.get_tensor(f"{name}.{i}") for i in range(header.layers)) for name in ("keys", "values")
            )
    except (OSError, SafetensorError) as error:
        raise BadContext(_unreadable(path, error)) from error
    pages = Pages(header, keys, values)
    if pages.handle != handle:
        raise BadContext(f"{path}: its content is not the one that it is called by; make the pages again")
    return pages


def _tensors_by_name(pages: Pages) -> tuple[tuple[str, tuple[Tensor, ...]], ...]:
    return ("keys", pages.keys), ("values", pages.values)


def _header(path: Path, metadata: Mapping[str, str] | None) -> Header:
    try:
        held = json.loads((metadata or {})[KEY])
        if held.pop("format") != FORMAT:
            raise ValueError("another format")
        return Header(**{**held, "tail": tuple(held["tail"])})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadContext(f"{path}: not pages that this version of Holdfast reads ({error}); make them again") from error


def _json(header: Header) -> str:
    return json.dumps({"format": FORMAT, **asdict(header)}, sort_keys=True)


def _unreadable(path: Path, error: Exception) -> str:
    if not path.exists():
        return f"{path}: no such pages; make them with holdfast.vllm.pages and put them in this folder"
    return f"{path}: not a whole file of pages ({error}); make it again"
