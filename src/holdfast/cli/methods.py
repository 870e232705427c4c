"""`holdfast methods`."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from typing import TYPE_CHECKING

from holdfast.cli import console
from holdfast.cli.options import AsJson

if TYPE_CHECKING:
    from holdfast.methods.registry import Entry


def methods(as_json: AsJson = False) -> None:
    """Lists the methods and their options."""
    from holdfast.methods.registry import COMMON, LATENT, TEXT, defaults

    if as_json:
        common = {name: default for name, (default, _) in COMMON.items()}
        rows = [("latent", name, entry, common) for name, entry in LATENT.items()]
        rows += [("text", name, entry, {}) for name, entry in TEXT.items()]
        console.emit(
            [
                {
                    "name": name,
                    "level": level,
                    "kind": entry.kind,
                    "summary": entry.summary,
                    "options": defaults(entry) | also,
                }
                for level, name, entry, also in rows
            ]
        )
        return
    _print_table("latent method", LATENT)
    for name, (default, summary) in COMMON.items():
        console.line(f"every latent method also has {name}={default}: {summary}")
    console.line("")
    _print_table("text method", TEXT)


def _print_table(title: str, entries: Mapping[str, Entry]) -> None:
    from rich.table import Table

    from holdfast.methods.registry import defaults

    for kind, names in groupby(entries, key=lambda name: entries[name].kind):
        heads = (f"{title}: {kind}", "what it does", "options and their defaults")
        table = Table(*heads, box=None, padding=(0, 2, 0, 0))
        table.columns[-1].overflow = "fold"
        for name in names:
            entry = entries[name]
            full = not entry.options  # a variant has the options of its method
            options = " ".join(f"{k}={v}" for k, v in defaults(entry).items()) if full else ""
            fixed = " ".join(f"{k}={v}" for k, v in entry.options)
            table.add_row(name, entry.summary, options or fixed)
        console.stdout().print(table)
        console.line("")
