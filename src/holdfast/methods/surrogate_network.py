"""The surrogate's network: one small MLP a layer, from a token's inputs to the log-score of its pair in each KV head.

Weights are kept in 8 bits with one step per row, beside the mean and the spread of every input, in one safetensors file
that names the model it was trained for.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from holdfast.config import home
from holdfast.errors import BadOption
from holdfast.storage.files import replace

FORMAT = "holdfast-surrogate-1"
SUFFIX = ".safetensors"
_STEPS = 127  # codes of 8 bits on each side of zero


@dataclass(frozen=True)
class LayerNetwork:
    """The network of one layer."""

    mean: Tensor
    """`[F]`: of the inputs."""
    scale: Tensor
    """`[F]`: the spread of the inputs, above zero."""
    first: Tensor
    """`[h, F]`"""
    first_bias: Tensor
    """`[h]`"""
    second: Tensor
    """`[G, h]`"""
    second_bias: Tensor
    """`[G]`"""

    def predict(self, inputs: Tensor) -> Tensor:
        """Returns the log-scores `[G, T]` of tokens with `inputs [T, F]`, float32."""
        hidden = F.gelu(F.linear((inputs - self.mean) / self.scale, self.first, self.first_bias))
        return F.linear(hidden, self.second, self.second_bias).T


@dataclass(frozen=True)
class SurrogateNetwork:
    """The networks of all layers of full attention, and what they were trained for."""

    model_digest: str
    layers: dict[int, LayerNetwork]
    recipe: dict[str, Any]
    """The sessions, targets and settings of the training, for whoever wants to make it again."""


def save_network(network: SurrogateNetwork, path: Path) -> None:
    """Writes a network as safetensors, over an older one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replace(path, network_bytes(network))


def network_bytes(network: SurrogateNetwork) -> bytes:
    """Returns the bytes of such a file."""
    from safetensors.torch import save

    tensors: dict[str, Tensor] = {}
    for layer, net in network.layers.items():
        for name in ("first", "second"):
            weight: Tensor = getattr(net, name)
            step = weight.abs().amax(1).clamp_min(1e-12) / _STEPS  # [rows]
            tensors[f"{layer}.{name}.codes"] = (weight / step[:, None]).round().to(torch.int8)
            tensors[f"{layer}.{name}.step"] = step
        for name in ("mean", "scale", "first_bias", "second_bias"):
            tensors[f"{layer}.{name}"] = getattr(net, name).contiguous()
    facts = {"format": FORMAT, "model_digest": network.model_digest, "recipe": json.dumps(network.recipe)}
    data: bytes = save({name: tensor.contiguous() for name, tensor in tensors.items()}, facts)
    return data


def load_network(path: Path, model_digest: str) -> SurrogateNetwork:
    """Reads a network. Raises BadOption for a file that is missing, damaged, or of another model."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            facts = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        if facts.get("format") != FORMAT:
            raise BadOption(f"{path} is no surrogate ({facts.get('format', 'no format is named')})")
        layers = sorted({int(name.partition(".")[0]) for name in tensors})
        networks = {layer: _read_layer(tensors, layer) for layer in layers}
        recipe = json.loads(facts["recipe"])
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise BadOption(f"cannot read the surrogate in {path}: {error}; make one with `{COMMAND}`") from error
    if facts["model_digest"] != model_digest:
        raise BadOption(f"{path} was trained for another model; make one for this model with `{COMMAND}`")
    return SurrogateNetwork(model_digest, networks, recipe)


COMMAND = "holdfast calibrate --learn surrogate SESSIONS"


def _read_layer(tensors: dict[str, Tensor], layer: int) -> LayerNetwork:
    def weight(name: str) -> Tensor:
        return tensors[f"{layer}.{name}.codes"].float() * tensors[f"{layer}.{name}.step"][:, None]

    plain = {name: tensors[f"{layer}.{name}"] for name in ("mean", "scale", "first_bias", "second_bias")}
    return LayerNetwork(first=weight("first"), second=weight("second"), **plain)


def find_network(model_digest: str) -> Path | None:
    """Returns the file of a model's surrogate: the user's own, else the one that comes with Holdfast, else None."""
    name = f"{model_digest}{SUFFIX}"
    places = (home() / "surrogates" / name, Path(__file__).parent / "weights" / name)
    return next((path for path in places if path.is_file()), None)


def own_network_path(model_digest: str) -> Path:
    """Returns the place of the surrogate that the user trains for a model."""
    return home() / "surrogates" / f"{model_digest}{SUFFIX}"
