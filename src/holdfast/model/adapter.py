"""A second reader over the same weights: a twin of a model with LoRA matrices of its own, which the model never sees.

The twin's modules are new and their tensors are the model's, so it costs only its adapter; nothing is switched on or
off, and a thread that uses the model beside it notices nothing.
"""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from holdfast.errors import BadOption, UnsupportedModel
from holdfast.model.load import Model

TARGETS = {
    "qv": ("q_proj", "v_proj", "qkv_proj"),  # Phi-3 has the three in one
    "qk": ("q_proj", "k_proj", "qkv_proj"),
    "all": ("q_proj", "k_proj", "v_proj", "o_proj", "qkv_proj", "gate_proj", "up_proj", "down_proj", "gate_up_proj"),
}


@dataclass(frozen=True)
class Lora:
    """The shape of an adapter."""

    rank: int = 128
    alpha: float = 32.0
    dropout: float = 0.05
    targets: str = "qv"
    """Projections that get one: `qv` as the thesis ran it, `qk` as it says, or `all`."""

    def __post_init__(self) -> None:
        if self.targets not in TARGETS:
            raise BadOption(f"targets must be one of {', '.join(TARGETS)}, got {self.targets!r}")
        if self.rank < 1 or not self.alpha > 0 or not 0 <= self.dropout < 1:
            raise BadOption("an adapter needs a rank of at least 1, alpha above 0 and 0 <= dropout < 1")


def share_model(model: Model) -> Model:
    """Returns a twin with modules of its own over the model's tensors."""
    tensors = {id(t): t for t in (*model.hf.parameters(), *model.hf.buffers())}
    return replace(model, hf=copy.deepcopy(model.hf, tensors))


def copy_model(model: Model) -> Model:
    """Returns a twin with tensors of its own, all of which can be trained (float32)."""
    return replace(model, hf=copy.deepcopy(model.hf).float().requires_grad_(True))


def add_adapter(model: Model, lora: Lora) -> Model:
    """Returns a twin of the model with a fresh adapter, which changes nothing until it is trained.

    Its matrices are float32 and drawn from torch's generator. Raises UnsupportedModel if no projection can have one.
    """
    from peft import LoraConfig, inject_adapter_in_model

    twin = share_model(model)
    linear = {name.rpartition(".")[2] for name, module in twin.hf.named_modules() if isinstance(module, nn.Linear)}
    names = sorted(linear & set(TARGETS[lora.targets]))
    if not names:
        raise UnsupportedModel(
            f"{model.name} has none of the projections {', '.join(TARGETS[lora.targets])} (it has: "
            f"{', '.join(sorted(linear))}), so that no adapter can be trained; give another model"
        )
    how = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=names)  # type: ignore[arg-type]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft knows newer fields of the configuration than are asked for
        inject_adapter_in_model(how, twin.hf)
    for parameter in adapter_parameters(twin).values():
        parameter.data = parameter.data.float()
    return twin


def adapter_parameters(twin: Model) -> dict[str, nn.Parameter]:
    """Returns the adapter's matrices by name."""
    return {name: weight for name, weight in twin.hf.named_parameters() if "lora_" in name}


def set_training(twin: Any, on: bool) -> None:
    """Switches the dropout of the adapter alone: the model's own stays off."""
    for name, module in twin.hf.named_modules():
        if "lora_dropout" in name:
            module.train(on)
