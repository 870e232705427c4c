"""The one place that reads the environment, and the folders that follow from it."""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path:
    """The user's Holdfast folder: `$HOLDFAST_HOME`, else `$XDG_CACHE_HOME/holdfast`, else `~/.cache/holdfast`.

    The folder is not created here.
    """
    if explicit := os.environ.get("HOLDFAST_HOME"):
        return Path(explicit).expanduser()
    if xdg := os.environ.get("XDG_CACHE_HOME"):
        return Path(xdg).expanduser() / "holdfast"
    return Path.home() / ".cache" / "holdfast"


CONFIG = "holdfast.toml"


def config_file() -> Path | None:
    """`holdfast.toml` of the project (the working folder), else of the user's Holdfast folder; None without.

    A session's folder is never searched: a file that someone sent must not say where a session goes.
    """
    places = (Path.cwd() / CONFIG, home() / CONFIG)
    return next((path for path in places if path.is_file()), None)


def secret(name: str) -> str:
    """The value of an environment variable, for a key; empty where it is not set."""
    return os.environ.get(name, "")
