"""The cost in tokens of what a model sees and a reader cannot read: images, documents, sound, encrypted text.

Each rule is the one that the provider publishes; a size that the file does not tell is taken as the largest that the
provider scales to, so that a budget is never passed unseen.
"""

from __future__ import annotations

import re
from base64 import b64decode
from binascii import Error
from math import ceil

ANTHROPIC_PIXELS_A_TOKEN = 750
ANTHROPIC_EDGE = 1568  # pixels of the longer edge that larger images are scaled to
ANTHROPIC_IMAGE_TOKENS = 1600  # of the largest image after scaling
ANTHROPIC_PAGE_TOKENS = 2250  # of a page's text: 1,500 to 3,000 as published; its image comes on top
OPENAI_BASE, OPENAI_TILE = 85, 170  # tokens of an image, and of each of its tiles of 512 pixels
OPENAI_IMAGE_TOKENS = OPENAI_BASE + 4 * OPENAI_TILE  # of the published example, 1024 pixels square
OPENAI_AUDIO_A_SECOND = 10
GEMINI_TILE_TOKENS, GEMINI_TILE, GEMINI_SMALL = 258, 768, 384
GEMINI_PAGE_TOKENS = 258
GEMINI_AUDIO_A_SECOND, GEMINI_VIDEO_A_SECOND = 32, 263
CODED_BYTES_A_SECOND = {"audio": 16_000, "video": 250_000}  # 128 kbit/s and 2 Mbit/s
_BYTES_A_TOKEN = 4
_SEAL_BYTES = 650  # of an encrypted text that hold no words of it
_HEAD_CHARACTERS = 1 << 18  # base64 that is decoded to find an image's size


def count_encrypted_tokens(sealed: str) -> int:
    """Returns the tokens of a text that only the provider can read, from the length of its base64 form."""
    return max(1, (len(sealed) * 3 // 4 - _SEAL_BYTES) // _BYTES_A_TOKEN)


def media_tokens(media_type: str, data: str, wire: str, detail: str = "") -> int:
    """Returns the tokens of a medium. `data` is its base64 form, empty if it stands elsewhere (a URL, a file's id);
    `wire` is anthropic, openai or gemini.
    """
    kind, _, form = media_type.partition("/")
    if kind == "image":
        return _image_tokens(image_size(decode_base64(data[:_HEAD_CHARACTERS])), wire, detail)
    if form == "pdf":
        page = GEMINI_PAGE_TOKENS if wire == "gemini" else ANTHROPIC_PAGE_TOKENS + ANTHROPIC_IMAGE_TOKENS
        return page * max(1, count_pages(decode_base64(data)))
    if kind in CODED_BYTES_A_SECOND:
        return max(1, ceil(_seconds(kind, decode_base64(data)) * _tokens_a_second(kind, wire)))
    return max(1, len(data) * 3 // 4 // _BYTES_A_TOKEN)


def decode_base64(data: str) -> bytes:
    """Returns the bytes, as far as they can be decoded."""
    try:
        return b64decode(data[: len(data) // 4 * 4])
    except (Error, ValueError):
        return b""


def _image_tokens(size: tuple[int, int] | None, wire: str, detail: str) -> int:
    if wire == "openai":
        return OPENAI_BASE if detail == "low" else _openai_image(size) if size else OPENAI_IMAGE_TOKENS
    if wire == "gemini":
        if size is None or max(size) <= GEMINI_SMALL:
            return GEMINI_TILE_TOKENS
        return GEMINI_TILE_TOKENS * ceil(size[0] / GEMINI_TILE) * ceil(size[1] / GEMINI_TILE)
    if size is None:
        return ANTHROPIC_IMAGE_TOKENS
    scale = min(1.0, ANTHROPIC_EDGE / max(size))
    return max(1, min(ANTHROPIC_IMAGE_TOKENS, ceil(size[0] * size[1] * scale**2 / ANTHROPIC_PIXELS_A_TOKEN)))


def _openai_image(size: tuple[int, int]) -> int:
    """Returns the tokens of an image that is scaled into 2048 pixels square, then to 768 on its shorter edge."""
    scale = min(1.0, 2048 / max(size))
    scale *= min(1.0, 768 / (min(size) * scale))
    return OPENAI_BASE + OPENAI_TILE * ceil(size[0] * scale / 512) * ceil(size[1] * scale / 512)


def image_size(data: bytes) -> tuple[int, int] | None:
    """Returns the width and height in pixels of a PNG, GIF, WebP or JPEG; None if its head does not tell."""
    if data[:8] == b"\x89PNG\r\n\x1a\n" and len(data) >= 24:
        size = (int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big"))
    elif data[:4] == b"GIF8" and len(data) >= 10:
        size = (int.from_bytes(data[6:8], "little"), int.from_bytes(data[8:10], "little"))
    elif data[:4] == b"RIFF" and data[8:12] == b"WEBP" and len(data) >= 30:
        size = _webp_size(data)
    elif data[:2] == b"\xff\xd8":
        size = _jpeg_size(data)
    else:
        return None
    return size if min(size) > 0 else None


def _webp_size(data: bytes) -> tuple[int, int]:
    if data[12:16] == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if data[12:16] == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    return int.from_bytes(data[26:28], "little") & 0x3FFF, int.from_bytes(data[28:30], "little") & 0x3FFF


def _jpeg_size(data: bytes) -> tuple[int, int]:
    """Returns the size in the frame header; zeros if it does not stand in these bytes."""
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        mark = data[at + 1]
        if 0xC0 <= mark <= 0xCF and mark not in (0xC4, 0xC8, 0xCC):
            return int.from_bytes(data[at + 7 : at + 9], "big"), int.from_bytes(data[at + 5 : at + 7], "big")
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return 0, 0


def count_pages(data: bytes) -> int:
    """Returns the pages of a PDF whose page objects are not packed; 0 if they are."""
    return len(re.findall(rb"/Type\s*/Page(?![a-zA-Z])", data))


def _seconds(kind: str, data: bytes) -> float:
    if data[:4] == b"RIFF" and data[8:12] == b"WAVE" and len(data) >= 32:
        rate = int.from_bytes(data[28:32], "little")
        return len(data) / rate if rate else 0.0
    return len(data) / CODED_BYTES_A_SECOND[kind]


def _tokens_a_second(kind: str, wire: str) -> int:
    if kind == "video":
        return GEMINI_VIDEO_A_SECOND
    return GEMINI_AUDIO_A_SECOND if wire == "gemini" else OPENAI_AUDIO_A_SECOND
