"""`holdfast models`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from holdfast.cli import console
from holdfast.cli.options import DEFAULT_MODEL, AsJson

if TYPE_CHECKING:
    from holdfast.model.bundled_models import Bundle


def models(as_json: AsJson = False) -> None:
    """Lists the models that are here or can be fetched: their size, licence and longest context."""
    from holdfast.model.bundled_models import BUNDLES

    rows = [_row(bundle) for bundle in BUNDLES.values()]
    if as_json:
        console.emit(rows)
        return
    for row in rows:
        default = ", the default" if row["name"] == DEFAULT_MODEL else ""
        console.line(f"{row['name']}{default}: {row['positions']:,} tokens of context, {row['licence']}")
        if row["megabytes"] is not None:
            console.line(f"  here: {row['folder']} ({row['megabytes']:,} MB)")
        else:
            console.line(f"  not here: holdfast fetch {row['name']} ({row['download_megabytes']:,} MB to download)")
    console.line(
        "Any other: --model with a local folder, a .gguf file or a Hugging Face id (HF_HUB_OFFLINE=1 forbids downloads)"
    )


def _row(bundle: Bundle) -> dict[str, Any]:
    from holdfast.model.bundled_models import folder

    place = folder(bundle.name)
    here = (place / "config.json").is_file()
    size = sum(file.stat().st_size for file in place.iterdir()) if here else None
    return {
        "name": bundle.name,
        "folder": str(place) if here else None,
        "megabytes": None if size is None else round(size / 1e6),
        "download_megabytes": bundle.megabytes,
        "licence": bundle.licence,
        "positions": bundle.positions,
    }
