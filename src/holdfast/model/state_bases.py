"""Bases in which the numbers of a head's keys and values are nearly independent, so that few bits hold them.

A basis is learned once per model (`holdfast calibrate --learn bases`). It measures an error by what the model makes of
it: of a key, the error of the logits; of a value, the error of the residual stream. One rounding step for all numbers
of all heads then spends the bits where they count (reverse water-filling; as in KVTC, https://arxiv.org/abs/2511.01815,
without its search). Files are named by model and content, so that learning anew leaves older contexts readable.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from holdfast.config import home
from holdfast.errors import BadOption
from holdfast.storage.files import replace as write_file

FORMAT = "holdfast-bases-1"
COMMAND = "holdfast calibrate --learn bases SESSIONS"
LARGEST = 32767  # of a code
_STEPS = 127  # codes of a matrix on each side of zero
KINDS: tuple[Literal["keys", "values"], ...] = ("keys", "values")


@dataclass(frozen=True)
class RowBasis:
    """The bases of one layer's keys or values, one for each of G heads. All tensors are float32."""

    mean: Tensor
    """`[G, D]`"""
    forward: Tensor
    """`[G, D, D]`: a row less its mean, times this, is its numbers in units of the finest step."""
    inverse: Tensor
    """`[G, D, D]`"""
    spread: Tensor
    """`[G, D]`: the standard deviation of each number, in the same units."""
    digest: str = ""
    """Of the file that it was read from."""

    def encode(self, rows: Tensor, lengths: tuple[int, ...], step: float) -> Tensor:
        """Returns the codes `[N, D]` of `rows [N, D]`, which are packed head by head; int8 where all fit."""
        parts = torch.split(rows.float(), list(lengths))
        numbers = [(part - mean) @ turn for part, mean, turn in zip(parts, self.mean, self.forward, strict=True)]
        return narrow((torch.cat(numbers) / step).round().clamp(-LARGEST, LARGEST))

    def decode(self, numbers: Tensor, heads: Tensor) -> Tensor:
        """Returns rows `[N, D]` float32 of `numbers [N, D]`, of which row n belongs to head `heads [n]`."""
        out = torch.empty_like(numbers)
        for g in range(len(self.mean)):
            own = heads == g
            out[own] = numbers[own] @ self.inverse[g].to(numbers.device) + self.mean[g].to(numbers.device)
        return out


@dataclass(frozen=True)
class StateBases:
    """The bases of all layers of full attention of a model."""

    model_digest: str
    layers: Mapping[int, tuple[RowBasis, RowBasis]]
    """Of keys and of values."""
    recipe: Mapping[str, Any]
    """Tokens and windows that they were learned from."""


def narrow(codes: Tensor) -> Tensor:
    """Returns whole numbers as int8 where all of them fit, else as int16 (the key of a text's first token may not)."""
    return codes.to(torch.int8 if not codes.numel() or codes.abs().max() <= 127 else torch.int16)


def bases_bytes(bases: StateBases) -> bytes:
    """Returns the bytes of a file: matrices in eight bits, one step a column."""
    from safetensors.torch import save

    tensors: dict[str, Tensor] = {}
    for layer, pair in bases.layers.items():
        for kind, basis in zip(KINDS, pair, strict=True):
            step = basis.forward.abs().amax(1, keepdim=True).clamp_min(1e-12) / _STEPS  # [G, 1, D]
            tensors[f"{layer}.{kind}.codes"] = (basis.forward / step).round().to(torch.int8)
            tensors[f"{layer}.{kind}.step"] = step
            tensors[f"{layer}.{kind}.mean"] = basis.mean
            tensors[f"{layer}.{kind}.spread"] = basis.spread
    facts = {"format": FORMAT, "model_digest": bases.model_digest, "recipe": json.dumps(dict(bases.recipe))}
    # one metadata key, because the order of several is not fixed and the name of the file is its digest
    data: bytes = save({name: t.contiguous() for name, t in tensors.items()}, {FORMAT: json.dumps(facts)})
    return data


def save_bases(bases: StateBases) -> Path:
    """Writes bases to their place in the user's home, beside older ones, and returns it."""
    data = bases_bytes(bases)
    path = _own_folder() / f"{bases.model_digest}-{_digest(data)}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, data)
    return path


def find_bases(model_digest: str, digest: str = "") -> StateBases | None:
    """Returns a model's bases: the user's newest, else those that come with Holdfast; with `digest` those of a file.

    None where there are none. Raises BadOption for a file that is damaged or of another model.
    """
    pattern = f"{model_digest}-{digest or '*'}.safetensors"
    for folder in (_own_folder(), Path(__file__).parent / "bases"):
        if found := sorted(folder.glob(pattern), key=lambda path: (path.stat().st_mtime, path.name)):
            return load_bases(found[-1], model_digest)
    return None


def require_bases(model_digest: str, model_name: str, digest: str = "") -> StateBases:
    """Returns what `find_bases` finds. Raises BadOption with what to do where it finds nothing."""
    found = find_bases(model_digest, digest)
    if found is None and digest:
        raise BadOption(
            f"its slots are coded in the bases {digest} of {model_name}, which are not here; copy "
            f"{model_digest}-{digest}.safetensors from where it was made into {_own_folder()}"
        )
    if found is None:
        raise BadOption(f"storage=coded needs bases of {model_name}, and there are none; make them with `{COMMAND}`")
    return found


def load_bases(path: Path, model_digest: str) -> StateBases:
    """Reads bases. Raises BadOption for a file that is missing, damaged, or of another model."""
    try:
        stat = path.stat()
        found = _read(path, stat.st_mtime_ns, stat.st_size)
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        raise BadOption(f"cannot read the bases in {path}: {error}; make them with `{COMMAND}`") from error
    if found.model_digest != model_digest:
        raise BadOption(f"{path} was learned for another model; make one for this model with `{COMMAND}`")
    return found


@lru_cache(maxsize=8)
def _read(path: Path, changed: int, size: int) -> StateBases:
    """Reads a file once as long as it does not change. Raises ValueError if it holds no bases."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    data = path.read_bytes()
    try:
        tensors = load(data)
    except SafetensorError as error:
        raise ValueError(str(error)) from error
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    facts = json.loads(header.get("__metadata__", {})[FORMAT])
    numbers, digest = sorted({int(name.partition(".")[0]) for name in tensors}), _digest(data)
    layers = {
        n: (_read_basis(tensors, f"{n}.keys", digest), _read_basis(tensors, f"{n}.values", digest)) for n in numbers
    }
    return StateBases(facts["model_digest"], layers, json.loads(facts["recipe"]))


def _read_basis(tensors: Mapping[str, Tensor], name: str, digest: str) -> RowBasis:
    forward = tensors[f"{name}.codes"].float() * tensors[f"{name}.step"]
    inverse = torch.linalg.inv(forward.double()).float()
    return RowBasis(tensors[f"{name}.mean"], forward, inverse, tensors[f"{name}.spread"], digest)


def _own_folder() -> Path:
    return home() / "bases"


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
