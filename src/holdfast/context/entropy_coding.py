"""Slots of the form `coded` as bytes of a file: a range coder spends on each code what its calibrated spread calls for.

Positions and scores beside them are packed without loss. The coder is constriction's
(https://bamler-lab.github.io/constriction/), whose models are exact integers, so that every machine decodes the same.
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import torch
from torch import Tensor

from holdfast.errors import BadOption
from holdfast.model.quantized_slots import QuantizedRows
from holdfast.model.state_bases import LARGEST, RowBasis, narrow

NARROWEST = 0.02  # of a spread, in steps: a code other than 0 stays possible
_FLOATS, _COUNTS = 0, 1  # the first byte of packed positions: as they are, or as distances of whole numbers


def encode_rows(rows: QuantizedRows, basis: RowBasis, step: float) -> Tensor:
    """Returns the bytes `[B]` uint8 of coded rows `[N, D]`. Raises BadOption where the coder is not installed."""
    if not len(rows) or rows.heads is None:
        return torch.zeros(0, dtype=torch.uint8)
    encoder = load_coder().stream.queue.RangeEncoder()
    encoder.encode(rows.codes.cpu().numpy().ravel().astype(np.int32), *_spreads(basis, rows.heads.cpu(), step))
    return torch.from_numpy(encoder.get_compressed().view(np.uint8).copy())


def decode_rows(data: Tensor, basis: RowBasis, lengths: tuple[int, ...], step: float) -> QuantizedRows:
    """Returns the rows of `encode_rows`. Raises ValueError for bytes that are none."""
    heads = torch.arange(len(lengths), dtype=torch.uint8).repeat_interleave(torch.tensor(lengths))
    scales, (N, D) = torch.full((len(heads), 1), step), (len(heads), basis.mean.shape[1])
    if not N:
        return QuantizedRows(torch.zeros(0, D, dtype=torch.int8), scales, basis, heads)
    if data.dtype != torch.uint8 or data.ndim != 1 or len(data) % 4:
        raise ValueError(f"coded rows are bytes in fours, got {data.dtype} {list(data.shape)}")
    decoder = load_coder().stream.queue.RangeDecoder(data.numpy().copy().view(np.uint32))
    model, means, spreads = _spreads(basis, heads, step)
    try:
        codes = decoder.decode(model, means, spreads).reshape(N, D)
    except AssertionError as error:  # what constriction raises for data that no encoder wrote
        raise ValueError(f"coded rows are damaged ({error})") from error
    return QuantizedRows(narrow(torch.from_numpy(codes)), scales, basis, heads)


def pack_positions(positions: Tensor, lengths: tuple[int, ...]) -> Tensor:
    """Returns the bytes `[B]` uint8 of `positions [N]` float32, packed head by head."""
    whole = positions.to(torch.int64)
    kind, plain = _FLOATS, positions.cpu().numpy()
    if bool((whole == positions).all()):
        starts = [np.diff(part.numpy(), prepend=0) for part in torch.split(whole.cpu(), list(lengths))]
        kind, plain = _COUNTS, np.concatenate(starts).astype(np.int32) if starts else np.zeros(0, np.int32)
    return torch.tensor([kind, *_deflate(plain)], dtype=torch.uint8)


def unpack_positions(data: Tensor, lengths: tuple[int, ...]) -> Tensor:
    """Returns the positions `[N]` of `pack_positions`. Raises ValueError for bytes that are none."""
    if data.dtype != torch.uint8 or data.ndim != 1 or not len(data):
        raise ValueError(f"packed positions are bytes, got {data.dtype} {list(data.shape)}")
    kind, packed = int(data[0]), data[1:].numpy().tobytes()
    if kind == _FLOATS:
        return torch.from_numpy(_inflate(packed, np.float32, sum(lengths)))
    steps = torch.from_numpy(_inflate(packed, np.int32, sum(lengths))).to(torch.int64)
    return torch.cat([part.cumsum(0) for part in torch.split(steps, list(lengths))]).float()


def pack_scores(scores: Tensor) -> Tensor:
    """Returns the bytes `[B]` uint8 of `scores [N]`, which are bfloat16 numbers."""
    return torch.tensor(list(_deflate(scores.cpu().bfloat16().view(torch.int16).numpy())), dtype=torch.uint8)


def unpack_scores(data: Tensor, count: int) -> Tensor:
    """Returns the scores of `pack_scores`, `[N]` float32 or, of a layer without, `[0]`.

    Raises ValueError for bytes that are none.
    """
    if data.dtype != torch.uint8 or data.ndim != 1:
        raise ValueError(f"packed scores are bytes, got {data.dtype} {list(data.shape)}")
    return (
        torch.from_numpy(_inflate(data.numpy().tobytes(), np.int16, count if len(data) else 0))
        .view(torch.bfloat16)
        .float()
    )


def _spreads(basis: RowBasis, heads: Tensor, step: float) -> tuple[Any, Any, Any]:
    """Returns the coder's model, and the mean and the spread of each code, in steps."""
    spreads = (basis.spread.double() / step).clamp_min(NARROWEST)[heads.long()].numpy().ravel()  # [N * D]
    return load_coder().stream.model.QuantizedGaussian(-LARGEST, LARGEST), np.zeros(len(spreads)), spreads


def _deflate(numbers: Any) -> bytes:
    """Packs numbers, the first bytes of all of them before the second ones."""
    if not len(numbers):
        return b""
    return zlib.compress(numbers.view(np.uint8).reshape(len(numbers), -1).T.tobytes(), 9)


def _inflate(data: bytes, dtype: Any, count: int) -> Any:
    size = np.dtype(dtype).itemsize
    if not data and not count:
        return np.zeros(0, dtype)
    packed = zlib.decompressobj()
    try:
        plain = packed.decompress(data, count * size + 1)  # never more than can be right
    except zlib.error as error:
        raise ValueError(f"packed numbers are damaged ({error})") from error
    if len(plain) != count * size:
        raise ValueError(f"{count} packed numbers of {size} bytes are expected, got {len(plain)} bytes")
    return np.frombuffer(plain, np.uint8).reshape(size, count).T.copy().view(dtype).ravel()


def load_coder() -> Any:
    """Returns the module constriction. Raises BadOption where it is not installed."""
    try:
        import constriction
    except ImportError as error:
        raise BadOption("slots of storage=coded need constriction in a file: pip install 'holdfast[coded]'") from error
    return constriction
