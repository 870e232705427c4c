"""The number type that a model computes in: what a device can do, and what it does quickly.

Softmax, scores, solves and losses are computed in float32 whatever the model's own type is.
"""

from __future__ import annotations

from holdfast.errors import BadOption

AUTO = "auto"
DTYPES = (AUTO, "float32", "bfloat16", "float16", "float64")
_HARDWARE = ("amx_bf16", "avx512_bf16", "bf16")
"""Names in torch.cpu.get_capabilities() of the instructions that multiply bfloat16: two of x86, one of Arm."""


def choose_dtype(dtype: str, device: str) -> str:
    """Returns the dtype to load a model in; `auto` is bfloat16 where the hardware multiplies it, else float32.

    Raises BadOption for a dtype that is unknown, or that the device cannot do well.
    """
    if dtype not in DTYPES:
        raise BadOption(f"dtype {dtype!r} is not one of {', '.join(DTYPES)}")
    if dtype == AUTO:
        return "bfloat16" if multiplies_bfloat16(device) else "float32"
    if dtype == "float16" and device == "cpu":
        raise BadOption("float16 is slow and inexact on a CPU; use float32 or bfloat16")
    if dtype == "bfloat16" and not can_bfloat16(device):
        raise BadOption("this processor has no bfloat16 arithmetic; use float32, or auto")
    return dtype


def choose_recorded_dtype(recorded: str, device: str) -> str:
    """Returns the dtype that a file was made in, or `auto` where the device cannot compute in it."""
    return AUTO if recorded == "bfloat16" and not can_bfloat16(device) else recorded


def can_bfloat16(device: str) -> bool:
    """Returns whether a model can compute in bfloat16 on the device at all, be it slowly."""
    import torch

    return device != "cpu" or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def multiplies_bfloat16(device: str) -> bool:
    """Returns whether the device has instructions that multiply bfloat16; without them it is slower than float32."""
    import torch

    kind = torch.device(device).type
    if kind == "cpu":
        found = torch.cpu.get_capabilities()
        return can_bfloat16(device) and any(found.get(name, False) for name in _HARDWARE)
    if kind == "cuda":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    return kind == "mps" and torch.backends.mps.is_macos_or_newer(14, 0)
