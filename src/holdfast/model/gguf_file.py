"""A GGUF file as a model folder: its weights are de-quantised once, into safetensors that load at once.

A file that is quantised, or in bfloat16, becomes bfloat16, which holds every value of its codes to 3 digits; one in
float16 or float32 becomes float32. Memory holds the converted model and one float32 matrix more.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from holdfast.config import home
from holdfast.errors import BadInput, Failed
from holdfast.storage.files import install, workshop

SUFFIX = ".gguf"
EXACT = ("F16", "F32", "F64")
Say = Callable[[str], None]


def ensure_folder(file: Path, say: Say = lambda _: None) -> Path:
    """Returns the folder of the model in a GGUF file, after converting it at the first use; its name is the digest.

    Raises BadInput for a file that is missing, damaged or of an architecture that cannot be read, Failed for a full
    disk.
    """
    try:
        with file.open("rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise BadInput(f"cannot read {file}: {error.strerror or error}; give the path of a .gguf file") from error
    target = home() / "models" / f"gguf-{digest[:16]}-v1"
    if (target / "config.json").exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with workshop(target.parent) as work:
        convert(file, work / "model", say)
        install_whole(work / "model", target)
    return target


def install_whole(model: Path, target: Path) -> None:
    """Gives a converted model its final name. Raises Failed if that cannot be, and no other process was first."""
    try:
        install(model, target)
    except OSError as error:  # another process was first; its folder is whole, because it was renamed too
        if not (target / "config.json").exists():
            raise Failed(f"cannot put the model at {target}: {error}") from error


def convert(file: Path, into: Path, say: Say, template: str = "", dtype: str = "") -> None:
    """Writes the model and tokenizer of a GGUF file as a folder; `dtype` is the file's own where it is left out.

    Raises BadInput for a file that is damaged or of an architecture that transformers cannot read.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    dtype = dtype or _dtype(file)
    say(f"de-quantising {file.name} once into {dtype} safetensors")
    try:
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        model = AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, dtype=getattr(torch, dtype), low_cpu_mem_usage=True
        )
    except (ValueError, KeyError, NotImplementedError, RuntimeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BadInput(
            f"cannot read {file.name}: {reason}; give a GGUF file of an architecture that transformers reads (llama, "
            "qwen2, qwen3, gemma3, mistral, …), or the model's own folder"
        ) from error
    # the weights are plain numbers now; with the GGUF quantisation config still set, saving is refused
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer = None
    tokenizer.chat_template = tokenizer.chat_template or template
    model.save_pretrained(into)
    tokenizer.save_pretrained(into)


def _dtype(file: Path) -> str:
    """Returns float32 if any matrix of the file is kept in 16 bits of float16 or more, else bfloat16."""
    from gguf import GGUFReader

    try:
        tensors = GGUFReader(file).tensors
    except (ValueError, KeyError, IndexError, OSError) as error:  # what the reader says of a damaged file
        raise BadInput(f"{file} is no whole GGUF file: {error}; download it again") from error
    exact = any(tensor.tensor_type.name in EXACT for tensor in tensors if len(tensor.shape) > 1)
    return "float32" if exact else "bfloat16"
