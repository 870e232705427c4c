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
