"""Server-sent events as frames, from bytes that come in any pieces, and back."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

from holdfast.proxy.memory.wire_answer import Frame

DONE = "[DONE]"
"""The data of the frame that ends a stream of chat completions."""


async def read_frames(pieces: AsyncIterator[bytes]) -> AsyncIterator[Frame]:
    """Yields each event with its data as JSON; data that is none comes as text. Comments are left out."""
    rest = b""
    async for piece in pieces:
        rest = (rest + piece).replace(b"\r\n", b"\n")
        while b"\n\n" in rest:
            block, _, rest = rest.partition(b"\n\n")
            if frame := _parse(block):
                yield frame
    if frame := _parse(rest):
        yield frame


def write_frames(frames: list[Frame]) -> bytes:
    """Returns the bytes of frames."""
    return b"".join(map(_write, frames))


def _parse(block: bytes) -> Frame | None:
    name = ""
    data: list[str] = []
    for line in block.decode("utf-8", "replace").split("\n"):
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            name = value
        elif field == "data":
            data.append(value)
    if not data:
        return None
    text = "\n".join(data)
    try:
        return name, json.loads(text)
    except ValueError:
        return name, text


def _write(frame: Frame) -> bytes:
    name, data = frame
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {text}\n\n".encode("utf-8", "replace")
