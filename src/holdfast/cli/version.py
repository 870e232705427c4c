"""`holdfast version`."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from pathlib import Path

from holdfast import __version__
from holdfast.cli import console
from holdfast.cli.options import AsJson

LIBRARIES = ("torch", "transformers", "fastapi", "openai", "anthropic", "genai-prices", "bm25s", "ray")


def version(as_json: AsJson = False) -> None:
    """Prints the versions of Holdfast, Python and the libraries that it uses."""
    versions = {name: _find_version(name) for name in LIBRARIES}
    folder = Path(__file__).parents[1]
    if as_json:
        console.emit({"holdfast": __version__, "python": platform.python_version(), "folder": str(folder), **versions})
        return
    console.line(f"holdfast {__version__} in {folder}")
    console.line(f"  Python {platform.python_version()} on {platform.system()} {platform.machine()}")
    for name, found in versions.items():
        console.line(f"  {name} {found or 'not installed'}")


def _find_version(name: str) -> str | None:
    try:
        return installed_version(name)
    except PackageNotFoundError:
        return None
