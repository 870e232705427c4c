"""The live page: a few static files that draw `/holdfast/sessions`. They hold nothing secret and need no key."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from fastapi import APIRouter
from fastapi.responses import Response

from holdfast.errors import Missing

router = APIRouter(include_in_schema=False)
TYPES = {"css": "text/css", "html": "text/html", "js": "text/javascript"}
HEADERS = {
    # no inline script, nothing from elsewhere, and no way from text to markup: what sessions say is hostile
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


@router.get("/")
def index() -> Response:
    """The page itself."""
    return asset("index.html")


@router.get("/page/{name}")
def asset(name: str) -> Response:
    """A file of the page. Raises Missing."""
    content = _contents().get(name)
    if content is None:
        raise Missing(f"the page has no file {name[:80]!r}; it starts at /")
    return Response(content, media_type=TYPES[name.rpartition(".")[2]], headers=HEADERS)


@cache
def _contents() -> dict[str, bytes]:
    folder = files("holdfast.server") / "page"
    return {entry.name: entry.read_bytes() for entry in folder.iterdir() if entry.name.rpartition(".")[2] in TYPES}
