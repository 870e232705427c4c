"""Compressed bodies of requests, read up to a limit: gzip, deflate, and zstd where `zstandard` is installed."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from importlib.util import find_spec

_EITHER = 47  # window bits of zlib: gzip or zlib, as the stream says


def can_decode(names: tuple[str, ...]) -> bool:
    """Returns True if all these encodings can be read here."""
    return all(name in _DECODERS and (name != "zstd" or find_spec("zstandard") is not None) for name in names)


def decode(data: bytes, names: tuple[str, ...], most: int) -> bytes | None:
    """Returns a body without its encodings; None for more than `most` bytes. Raises ValueError for what is broken."""
    for name in reversed(names):
        try:
            data = _DECODERS[name](data, most)
        except zlib.error as error:
            raise ValueError(f"the body is no {name}: {error}") from None
        if len(data) > most:
            return None
    return data


def _inflate(data: bytes, most: int) -> bytes:
    """Returns up to one byte more than `most` of a gzip or zlib stream, or of a bare deflate stream."""
    for bits in (_EITHER, -zlib.MAX_WBITS):
        reader = zlib.decompressobj(bits)
        try:
            made = reader.decompress(data, most + 1)
        except zlib.error:
            if bits < 0:
                raise
            continue
        if len(made) <= most and not reader.eof:
            raise zlib.error("it is cut off")
        return made
    return b""


def _unpack_zstd(data: bytes, most: int) -> bytes:
    import zstandard

    try:
        with zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True) as reader:
            return reader.read(most + 1)
    except zstandard.ZstdError as error:
        raise zlib.error(str(error)) from None


_DECODERS: dict[str, Callable[[bytes, int], bytes]] = {
    "gzip": _inflate,
    "x-gzip": _inflate,
    "deflate": _inflate,
    "zstd": _unpack_zstd,
}
