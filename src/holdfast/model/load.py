"""A model, its tokenizer and the facts about both. Knows no context and runs nothing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.errors import BadOption, Failed
from holdfast.model import attention, bundled_models, gguf_file
from holdfast.model.dtype import AUTO, choose_dtype
from holdfast.model.family import Family, inspect_model
from holdfast.model.step_scheduler import StepScheduler
from holdfast.progress import Progress, quiet

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Model:
    """A frozen causal LM that runs on Holdfast's attention."""

    name: str
    hf: Any
    tokenizer: Any
    family: Family
    digest: str
    """Identifies weights and shape, whatever dtype they were loaded in."""
    tokenizer_digest: str
    template_digest: str
    steps: StepScheduler = field(default_factory=StepScheduler, repr=False, compare=False)
    """Shares the model between threads, one forward pass at a time."""

    @property
    def device(self) -> torch.device:
        return self.hf.device  # type: ignore[no-any-return]

    @property
    def dtype(self) -> torch.dtype:
        return self.hf.dtype  # type: ignore[no-any-return]

    @property
    def max_tokens(self) -> int:
        """The longest context that the model was made for."""
        return int(self.hf.config.max_position_embeddings)


def load(
    name: str = bundled_models.DEFAULT, *, dtype: str = AUTO, device: str = "cpu", progress: Progress = quiet
) -> Model:
    """Loads a bundled model, a local folder, a GGUF file or a Hugging Face id; `progress` is told of each step.

    `dtype="auto"` is bfloat16 where the device multiplies it in hardware, else float32. Raises BadOption for a dtype
    that the device cannot do well, Failed if the model cannot be had, and UnsupportedModel if it cannot be served.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    check_device(device)
    dtype = choose_dtype(dtype, device)
    source = _source(name, lambda text: progress("load", 0, 3, text))
    with _explain_failure(name):
        progress("load", 0, 3, "tokenizer")
        words = AutoTokenizer.from_pretrained(source)
        progress("load", 1, 3, "weights")
        hf = AutoModelForCausalLM.from_pretrained(source, dtype=getattr(torch, dtype), attn_implementation="sdpa")
    progress("load", 2, 3, "digest")
    try:
        model = adopt_model(hf.to(device), words, name=name)
    except (RuntimeError, AssertionError) as error:  # torch says in these two ways that a device is not there
        raise BadOption(f"cannot use device {device!r}: {str(error).splitlines()[0]}") from error
    progress("load", 3, 3, "")
    return model


def tokenizer(name: str, say: gguf_file.Say = lambda _: None) -> Any:
    """Loads the tokenizer of a model alone, which is quick. `say` is told of it, and of what must be fetched first.

    Raises Failed if it cannot be had.
    """
    from transformers import AutoTokenizer

    with _explain_failure(name):
        source = _source(name, say)
        say("tokenizer")
        return AutoTokenizer.from_pretrained(source)


def _source(name: str, say: gguf_file.Say = lambda _: None) -> str:
    """Returns what transformers can load: the folder of a bundled model or of a GGUF file, else the name itself."""
    if name in bundled_models.BUNDLES:
        return str(bundled_models.ensure_model(name, say))
    return str(gguf_file.ensure_folder(Path(name).expanduser(), say)) if name.endswith(gguf_file.SUFFIX) else name


@contextmanager
def _explain_failure(name: str) -> Iterator[None]:
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, SafetensorError) as error:
        known = ", ".join(bundled_models.BUNDLES)
        reason = _reason(name, str(error).strip().splitlines()[0])
        raise Failed(
            f"cannot load model {name!r}: {reason} (give a folder, a Hugging Face id, or: {known}; see holdfast models)"
        ) from error


def _reason(name: str, first_line: str) -> str:
    """Returns why a model cannot be loaded, in terms of what the user can change; else what the library says."""
    from huggingface_hub import constants

    folder = Path(name).expanduser()
    if folder.is_dir() and not (folder / "config.json").is_file():
        return "the folder has no config.json; give the folder that holds config.json, tokenizer and weights"
    if "connect" not in first_line or folder.is_dir():
        return first_line
    if constants.HF_HUB_OFFLINE:
        return "it is not on this machine, and HF_HUB_OFFLINE forbids to download it; unset HF_HUB_OFFLINE"
    return "it is not on this machine, and the Hugging Face hub cannot be reached; check the name and the network"


BASE_DTYPE, BASE_ITEMSIZE = "bfloat16", 2
"""The cache against which sizes are stated, and the bytes of one of its numbers: what models are served in."""


def full_bytes(model: Model, length: int, itemsize: int | None = None) -> int:
    """Returns the KV bytes of `length` verbatim tokens; sliding layers hold only what the next token sees.

    A number takes `itemsize` bytes, by default those of the model's dtype.
    """
    pair = 2 * model.family.kv_heads * model.family.head_dim * (itemsize or model.dtype.itemsize)
    seen = (length if layer.window is None else min(length, layer.window - 1) for layer in model.family.layers)
    return sum(pair * n for n in seen)


def adopt_model(hf: Any, tokenizer: Any, *, name: str) -> Model:
    """Freezes a model that is already in memory and puts it on Holdfast's attention."""
    family = inspect_model(hf)
    attention.register_attention()
    hf.set_attn_implementation(attention.NAME)
    hf.eval().requires_grad_(False)
    return Model(
        name=name,
        hf=hf,
        tokenizer=tokenizer,
        family=family,
        digest=_weights_digest(hf),
        tokenizer_digest=_digest(json.dumps(sorted(tokenizer.get_vocab().items())).encode()),
        template_digest=_digest((tokenizer.chat_template or "").encode()),
    )


def check_device(device: str) -> None:
    """Raises BadOption, before any weights are read, for a device that is not there."""
    import torch

    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise BadOption(f"no device is called {device!r}; there are cpu, cuda, cuda:1, mps, …") from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise BadOption(
            f"there is no CUDA device here for {device!r} (torch {torch.__version__}); use --device cpu, or install a "
            "driver and a torch with CUDA"
        )
    if kind == "mps" and not torch.backends.mps.is_available():
        raise BadOption(f"this machine has no MPS device (torch {torch.__version__}); use --device cpu")


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


# what a stored key or value depends on besides the weights
SHAPING = (
    *("model_type", "hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim", "rms_norm_eps"),
    *("rope_parameters", "sliding_window", "layer_types", "hidden_act", "hidden_activation", "query_pre_attn_scalar"),
)


def _weights_digest(hf: Any) -> str:
    """Hashes the shaping configuration and every weight, rounded to bfloat16.

    Rounding makes one model's float32 and bfloat16 copies the same model. A matrix enters as the exact sums of its
    rows' and columns' bits: every weight counts, and loading stays fast.
    """
    import torch

    config = hf.config.to_dict()
    state = hashlib.sha256(json.dumps({key: config.get(key) for key in SHAPING}, sort_keys=True, default=str).encode())
    for name, weight in sorted(hf.state_dict().items()):
        bits = weight.detach().to(torch.bfloat16).view(torch.int16).reshape(len(weight) if weight.ndim else 1, -1)
        state.update(f"{name}{tuple(weight.shape)}".encode())
        counts = bits.cpu().numpy()  # [rows, columns] int16; numpy sums it 8 times faster than torch
        for axis in (0, 1):
            state.update(counts.sum(axis, dtype="int64").tobytes())
    return state.hexdigest()[:16]
