"""The number type: what `auto` means here, and that bfloat16 says what float32 says."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from conftest import byte_tokenizer, plain_model
from holdfast.errors import BadOption
from holdfast.model.dtype import AUTO, can_bfloat16, choose_dtype, choose_recorded_dtype, multiplies_bfloat16
from holdfast.model.forward import log_probs
from holdfast.model.load import adopt_model


def test_auto_is_bfloat16_exactly_where_the_hardware_multiplies_it():
    """The kernel's own list of this processor's instructions is the witness."""
    try:
        flags = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        pytest.skip("this system has no /proc/cpuinfo")
    hardware = bool(flags & {"amx_bf16", "avx512_bf16", "bf16"})
    assert multiplies_bfloat16("cpu") == hardware
    assert choose_dtype(AUTO, "cpu") == ("bfloat16" if hardware else "float32")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_dtype_that_is_named_is_taken(dtype):
    assert choose_dtype(dtype, "cpu") == dtype
    assert choose_recorded_dtype(dtype, "cpu") == dtype


def test_what_was_made_in_bfloat16_opens_on_any_processor():
    assert choose_recorded_dtype("bfloat16", "cpu") == ("bfloat16" if can_bfloat16("cpu") else AUTO)


def test_bfloat16_without_arithmetic_is_refused():
    if can_bfloat16("cpu"):
        pytest.skip("this processor has bfloat16 arithmetic")
    with pytest.raises(BadOption, match="float32, or auto"):
        choose_dtype("bfloat16", "cpu")


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma3_text"])
def test_bfloat16_is_the_float32_reference_within_its_rounding(family, ids):
    """Each of the layers rounds sums of values to 8 bits; the errors add up like independent ones."""
    if not can_bfloat16("cpu"):
        pytest.skip("this processor has no bfloat16 arithmetic")
    read, nats = ids(60), {}
    for dtype in (torch.float32, torch.bfloat16):
        model = adopt_model(plain_model(family, dtype=dtype), byte_tokenizer(), name=family)
        with torch.no_grad():
            hidden = model.hf.model(read[None]).last_hidden_state[0]  # [60, d]
        nats[dtype] = -log_probs(model, hidden[:-1], read[1:])
        assert nats[dtype].dtype == torch.float32
    layers, eps = len(model.family.layers), torch.finfo(torch.bfloat16).eps
    spread = nats[torch.float32].std()
    error = (nats[torch.bfloat16] - nats[torch.float32]).square().mean().sqrt()
    assert error < spread * eps * 8 * (4 * layers) ** 0.5
