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


CONFIG_VARIABLE = "HOLDFAST_CONFIG"


def config_file() -> Path | None:
    """The file that `$HOLDFAST_CONFIG` names, else `holdfast.toml` of the user's Holdfast folder; None without.

    The working folder is never searched, nor a session's: a file that someone sent must not say where a session and a
    key go.
    """
    if explicit := os.environ.get(CONFIG_VARIABLE):
        return Path(explicit).expanduser()
    own = home() / CONFIG
    return own if own.is_file() else None


def config_places() -> str:
    """Where the configuration is read from, for an error that tells the user to write one."""
    return (
        f"{home() / CONFIG}, or a file that --config or ${CONFIG_VARIABLE} names; a {CONFIG} in the working folder is "
        "not read unasked"
    )


def secret(name: str) -> str:
    """The value of an environment variable, for a key; empty where it is not set."""
    return os.environ.get(name, "")
