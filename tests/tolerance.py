"""Tolerances for the equality of tensors, derived from their dtype and from how much is summed up in one element."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from conftest import SHAPE

ROUNDINGS = 16
"""Units in the last place that one summed term may cost: processors add in orders of their own, and keep more or fewer
bits between two steps."""
PASS = 4 * SHAPE["hidden_size"]
"""`terms` of a pass through a tiny model: at most four layers of this width."""


def tolerance(want: torch.Tensor, terms: int = 1, dtype: torch.dtype | None = None) -> float:
    """Returns the largest difference to `want` that rounding explains.

    `terms` is how many numbers are added up on the way to one element, `dtype` that of the arithmetic where it is
    coarser than that of `want`.
    """
    scale = float(want.detach().abs().max()) if want.numel() else 0.0
    return ROUNDINGS * torch.finfo(dtype or want.dtype).eps * terms * scale


def close(got: torch.Tensor, want: torch.Tensor, terms: int = 1, dtype: torch.dtype | None = None) -> bool:
    """Returns whether `got` has the shape of `want` and differs from it by no more than rounding explains."""
    assert got.shape == want.shape
    coarser = dtype or max(got.dtype, want.dtype, key=lambda kind: torch.finfo(kind).eps)
    return torch.allclose(got.double(), want.double(), rtol=0, atol=tolerance(want, terms, coarser))


def near(want: float, terms: int = PASS) -> Any:
    """Returns what equals every number that differs from `want` by no more than float32 arithmetic explains."""
    share = tolerance(torch.ones(()), terms)
    return pytest.approx(want, rel=share, abs=share)
