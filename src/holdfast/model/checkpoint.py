"""Trained weights of a compressor on disk: a folder with `weights.safetensors` and a manifest that names its model.

A run writes `step-00000100/`, each whole or not at all; whoever reads the run takes its newest one.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from holdfast.errors import BadOption, Failed
from holdfast.storage import files

FORMAT = "holdfast-trained-1"
WEIGHTS, MANIFEST = "weights.safetensors", "manifest.json"
_STEP = re.compile(r"step-\d{8}")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose files are whole."""

    folder: Path
    manifest: Mapping[str, Any]
    """`kind`, `model_digest`, `step`, `recipe`, `data` (digest and sessions), and the digest of every file."""

    @property
    def step(self) -> int:
        return int(self.manifest["step"])

    @property
    def recipe(self) -> dict[str, Any]:
        return dict(self.manifest["recipe"])

    @property
    def sessions(self) -> frozenset[str]:
        """Digests of the sessions that it was trained on (`compaction.compact.session_digest`)."""
        return frozenset(self.manifest.get("data", {}).get("sessions", ()))

    def weights(self) -> dict[str, Tensor]:
        """Returns the trained tensors by name. Raises BadOption if the file cannot be read."""
        from safetensors import SafetensorError
        from safetensors.torch import load

        try:
            tensors: dict[str, Tensor] = load(self.read(WEIGHTS))
        except SafetensorError as error:
            raise BadOption(f"cannot read {self.folder / WEIGHTS}: {error}") from error
        return tensors

    def read(self, name: str) -> bytes:
        """Returns the bytes of one of its files. Raises BadOption if they are not those that were written."""
        try:
            data = (self.folder / name).read_bytes()
        except OSError as error:
            raise BadOption(f"cannot read {self.folder / name}: {error.strerror}; take an older checkpoint") from error
        if _sha256(data) != self.manifest["files"].get(name):
            raise BadOption(
                f"{self.folder / name} is cut or was changed since it was written; take an older checkpoint"
            )
        return data


def save_checkpoint(
    run: Path, step: int, weights: Mapping[str, Tensor], manifest: Mapping[str, Any], extra: Mapping[str, bytes]
) -> Path:
    """Writes `run/step-…` whole or not at all, and returns it. Raises Failed if the disk refuses."""
    from safetensors.torch import save

    target = run / f"step-{step:08d}"
    parts = {WEIGHTS: save({name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}), **extra}
    digests = {name: _sha256(data) for name, data in parts.items()}
    facts = {"format": FORMAT, "step": step, **manifest, "files": digests}
    try:
        with files.workshop(run) as shop:
            made = shop / target.name
            made.mkdir()
            for name, data in {**parts, MANIFEST: json.dumps(facts, indent=1).encode()}.items():
                files.stage(made / name, data)
            if target.exists():  # a damaged one, which the run passed over
                files.remove_folder(target)
            files.install(made, target)
    except OSError as error:
        raise Failed(
            f"cannot write the checkpoint of step {step} into {run}: {error.strerror}; the older ones are whole: make "
            "room, then give the same command again"
        ) from error
    return target


def step_folders(run: Path) -> list[Path]:
    """Returns the folders of a run's checkpoints, the oldest first."""
    return sorted(p for p in run.iterdir() if _STEP.fullmatch(p.name)) if run.is_dir() else []


def read_checkpoint(folder: Path, kind: str = "", model_digest: str = "") -> Checkpoint:
    """Opens a checkpoint, or the newest one of a run.

    Raises BadOption if there is none, if it is damaged, of another `kind`, or trained for another model.
    """
    steps = step_folders(folder)
    here = folder if (folder / MANIFEST).is_file() or not steps else steps[-1]
    try:
        manifest = json.loads((here / MANIFEST).read_bytes())
        if manifest["format"] != FORMAT:
            raise BadOption(f"{here} has the format {manifest['format']!r}, not {FORMAT}; train it again")
        checkpoint = Checkpoint(here, manifest)
        told = f"{here} holds a trained {manifest['kind']} for {manifest['model']} ({manifest['model_digest']})"
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadOption(
            f"{here} holds no whole checkpoint ({error}); give a folder that `holdfast train` wrote, or a step of it"
        ) from error
    if kind and manifest["kind"] != kind:
        raise BadOption(f"{told}; give one of a {kind}, or use --latent {manifest['kind']}:weights=…")
    if model_digest and manifest["model_digest"] != model_digest:
        raise BadOption(f"{told}, not for this model ({model_digest}); give --model {manifest['model']}, or train anew")
    return checkpoint


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
