"""The live page: a few static files that draw `/holdfast/sessions`. They hold nothing secret and need no key."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import Response

from holdfast.errors import Missing
from holdfast.web.pages import PAGE_HEADERS, read_assets

router = APIRouter(include_in_schema=False)


@router.get("/")
def index() -> Response:
    """Sends the page itself."""
    return asset("index.html")


@router.get("/page/{name}")
def asset(name: str) -> Response:
    """Sends a file of the page. Raises Missing."""
    found = read_assets("holdfast.server").get(name)
    if found is None:
        raise Missing(f"the page has no file {name[:80]!r}; it starts at /")
    return Response(found.content, media_type=found.media_type, headers=PAGE_HEADERS)
