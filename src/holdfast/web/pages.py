"""Static files of a page: what they are sent with, and how they are read from a package."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import NamedTuple

MEDIA_TYPES = {"css": "text/css", "html": "text/html", "js": "text/javascript"}
PAGE_HEADERS = {
    # no inline script, nothing from elsewhere, and no way from text to markup: what sessions say is hostile
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


class Asset(NamedTuple):
    """A file of a page."""

    content: bytes
    media_type: str


@cache
def read_assets(package: str) -> dict[str, Asset]:
    """Returns the files of the folder `page` of a package, by name, and the style sheet that all pages share."""
    folders = (files("holdfast.web") / "page", files(package) / "page")
    found = (entry for folder in folders for entry in folder.iterdir())
    typed = ((entry, MEDIA_TYPES.get(entry.name.rpartition(".")[2])) for entry in found)
    return {entry.name: Asset(entry.read_bytes(), kind) for entry, kind in typed if kind}
