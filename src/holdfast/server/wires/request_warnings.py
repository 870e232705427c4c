"""The parts of a request that a model of text cannot use: each is left out, or a line of the text says what was there,
and a header of the answer names it. A history that has them is read all the same: a refusal would lock the session.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from fastapi import Request

_MEDIA = ("image", "image_url", "input_image", "input_audio", "audio", "video_url", "file", "input_file", "document")
_WITH_WORDS = ("text", "content")
"""Kinds of a document's source whose words are read."""
_INSIDE = ("content", "output")


def warn(request: Request, message: str) -> None:
    """Adds a warning to the headers of the answer, and to its `holdfast` field."""
    if message not in request.state.warnings:
        request.state.warnings.append(message)


def warn_of_tools(request: Request, names: Sequence[str], reason: str) -> None:
    """Warns of tools that are left out, by their names, if there are any."""
    if names:
        warn(request, f"tools left out: {', '.join(name[:80] for name in names)} ({reason})")


def warn_of_media(request: Request, contents: Iterable[object]) -> None:
    """Warns of images, documents and the like in message contents, if there are any."""
    if counts := Counter(kind for content in contents for kind in find_media(content)):
        named = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))
        warn(request, f"not read: {named} (the model here reads text; a line says where each was)")


def find_media(content: object) -> Iterator[str]:
    """Yields the kind of each part of a content, and of results inside it, that a model of text cannot read."""
    for part in content if isinstance(content, list) else ():
        if not isinstance(part, Mapping):
            continue
        kind = part.get("type")
        source = part.get("source")
        words = isinstance(source, Mapping) and source.get("type") in _WITH_WORDS
        if kind in _MEDIA and not words:
            yield str(kind).removesuffix("_url").removeprefix("input_")
        for inside in _INSIDE:
            yield from find_media(part.get(inside))


def tool_name(tool: Mapping[str, Any]) -> str:
    """Returns the name of a tool, or its kind where it has none."""
    return str(tool.get("name") or tool.get("type") or "without a type")
