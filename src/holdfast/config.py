"""The one place that reads the environment, and the folders that follow from it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path


def home() -> Path:
    """Returns the user's Holdfast folder: `$HOLDFAST_HOME`, else `$XDG_CACHE_HOME/holdfast`, else `~/.cache/holdfast`.

    The folder is not created here.
    """
    if explicit := os.environ.get("HOLDFAST_HOME"):
        return Path(explicit).expanduser()
    if xdg := os.environ.get("XDG_CACHE_HOME"):
        return Path(xdg).expanduser() / "holdfast"
    return Path.home() / ".cache" / "holdfast"


def describe_home_source() -> str:
    """Returns the name of what says where the Holdfast folder is: a variable, or the default."""
    set_ones = (f"${name}" for name in ("HOLDFAST_HOME", "XDG_CACHE_HOME") if os.environ.get(name))
    return next(set_ones, "the default; $HOLDFAST_HOME names another")


@cache
def source_commit() -> str:
    """Returns the commit of the checkout that Holdfast runs from, or an empty string where it is installed."""
    line, here = ["git", "rev-parse", "--short=12", "HEAD"], Path(__file__).parent
    try:
        done = subprocess.run(line, cwd=here, capture_output=True, text=True, check=False)
    except OSError:  # no git here
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


CONFIG = "holdfast.toml"


CONFIG_VARIABLE = "HOLDFAST_CONFIG"


def config_file() -> Path | None:
    """Returns the file that `$HOLDFAST_CONFIG` names, else `holdfast.toml` of the user's Holdfast folder, else None.

    The working folder is never searched, nor a session's: a file that someone sent must not say where a session and a
    key go.
    """
    if explicit := os.environ.get(CONFIG_VARIABLE):
        return Path(explicit).expanduser()
    own = home() / CONFIG
    return own if own.is_file() else None


def describe_config_places() -> str:
    """Describes where the configuration is read from, for an error that tells the user to write one."""
    return (
        f"{home() / CONFIG}, or a file that --config or ${CONFIG_VARIABLE} names; a {CONFIG} in the working folder is "
        "not read unasked"
    )


def read_secret(name: str) -> str:
    """Returns the value of an environment variable that holds a key; empty if it is not set."""
    return os.environ.get(name, "")


_FOR_COMMANDS = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ")


def command_environment(names: Sequence[str] = ()) -> dict[str, str]:
    """Returns the variables that a command of an agent gets: none that holds a key, but those that `names` adds."""
    return {name: value for name in (*_FOR_COMMANDS, *names) if (value := os.environ.get(name)) is not None}


def child_environment(extra: dict[str, str]) -> dict[str, str]:
    """Returns the environment of this process with `extra`, for a program that is started."""
    return {**os.environ, **extra}
