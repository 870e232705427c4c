"""Help texts of groups of commands."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from typer.core import TyperGroup


class FullSummaries(TyperGroup):
    """Commands listed each with the whole first sentence of its help; a long one goes on in the next line."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Writes one section."""
        with formatter.section("Commands"):
            self.format_summaries(formatter, self.list_commands(ctx))

    def format_summaries(self, formatter: Any, names: Iterable[str]) -> None:
        """Writes a row for each command."""
        formatter.write_dl([(name, _summary(self.commands[name].help or "")) for name in names])


def _summary(text: str) -> str:
    return " ".join(text.partition(". ")[0].split()).removesuffix(".")
