"""`holdfast config`."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from holdfast.cli import console
from holdfast.cli.options import AsJson


class Place(NamedTuple):
    """A file or folder that Holdfast reads or writes."""

    name: str
    path: Path
    source: str
    """The variable or the default that says where it is."""


def config(as_json: AsJson = False) -> None:
    """Prints where everything is: configuration, cache, models and session store, and which of them exist."""
    places = _places()
    if as_json:
        console.emit(
            {
                place.name: {"path": str(place.path), "exists": place.path.exists(), "source": place.source}
                for place in places
            }
        )
        return
    for place in places:
        state = "" if place.path.exists() else "  (not there yet)"
        console.line(f"{place.name:<16}{place.path}{state}\n{'':16}{place.source}")


def _places() -> list[Place]:
    from holdfast import config as settings

    home, source = settings.home(), settings.describe_home_source()
    explicit = settings.config_file()
    own = home / settings.CONFIG
    named = f"${settings.CONFIG_VARIABLE}" if explicit is not None and explicit != own else source
    return [
        Place("folder", home, source),
        Place("configuration", explicit or own, f"{named}; --config names another; see examples/holdfast.toml"),
        Place("models", home / "models", f"{source}; `holdfast models` lists them"),
        Place("session store", home / "sessions", f"{source}; `holdfast serve --store` names another"),
        Place("head shares", home / "shares", f"{source}; written by `holdfast calibrate`"),
    ]
