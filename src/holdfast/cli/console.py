"""Output of results on stdout, and messages and progress on stderr."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from typing import TYPE_CHECKING, Any
from unicodedata import category

from rich.console import COLOR_SYSTEMS, Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.style import Style

from holdfast.cli.ticker import Ticker

if TYPE_CHECKING:
    from rich.table import Table

    from holdfast.engine.local import LocalEngine
    from holdfast.progress import Progress as Report

WIDTH = 106  # columns of the widest table
stderr = Console(stderr=True)
ticker = Ticker(stderr)


def stdout() -> Console:
    """Returns a console on stdout, wide enough for the tables if the output is not a terminal."""
    ticker.give_way()
    console = Console()
    return console if console.is_terminal and console.width >= WIDTH else Console(width=max(WIDTH, console.width))


def print_whole(table: Table) -> None:
    """Prints a table; where stdout is no terminal, as wide as it needs, so that no column is cut off."""
    console = stdout()
    if not console.is_terminal:
        free = console.options.update(max_width=sys.maxsize)
        console.width = max(console.width, console.measure(table, options=free).maximum)
    console.print(table)


def line(text: str, label: str = "", style: str = "") -> None:
    """Prints a line of results without the control characters that a session or a file may hold.

    `label`, which stands in front of it, gets the style if stdout is a terminal with colours.
    """
    ticker.give_way()
    console = Console()
    colours = console.color_system if style and not console.no_color else None
    head = _replace_controls(label)
    shown = Style.parse(style).render(head, color_system=COLOR_SYSTEMS[colours]) if colours else head
    sys.stdout.write(shown + _replace_controls(text) + "\n")


def _replace_controls(text: str) -> str:
    return "".join(c if _is_printable(c) else "\ufffd" for c in text)


def _is_printable(character: str) -> bool:
    """Returns True also for blanks of any script and for what joins letters or emoji."""
    return character.isprintable() or character in "\n\t\u200c\u200d" or category(character) == "Zs"


def escape_unencodable() -> None:
    """Makes stdout write an escape for each character that its encoding does not have."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def emit(value: Any) -> None:
    """Prints one JSON value."""
    ticker.give_way()
    unicode = (getattr(sys.stdout, "encoding", None) or "utf-8").lower().startswith("utf")
    json.dump(value, sys.stdout, indent=2, ensure_ascii=not unicode, default=str)
    sys.stdout.write("\n")


def say(text: str) -> None:
    """Prints a note for the person at the terminal, on stderr."""
    ticker.give_way()
    stderr.print(text, style="dim", markup=False, emoji=False, highlight=False, soft_wrap=True)


def say_step(text: str) -> None:
    """Prints a note as `say` does, and makes it the work that the ticker names."""
    say(text)
    ticker.set(text)


def quiet_libraries() -> None:
    """Silences the messages and bars of the libraries that load a model."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    from transformers.utils import logging

    logging.disable_progress_bar()


def engine(model: str, dtype: str, device: str) -> LocalEngine:
    """Loads a model, says so, and silences the messages of the libraries that load it."""
    quiet_libraries()
    work = f"loading {model}"
    ticker.set(work)
    from holdfast.compaction.compact import load
    from holdfast.model import bundled_models

    if model in bundled_models.BUNDLES:
        bundled_models.ensure_model(model, say_step)
    loaded = load(model, dtype=dtype, device=device, progress=lambda *step: ticker.update(f"{work} {step[-1]}".strip()))
    ticker.set("working")
    return loaded


@contextmanager
def progress(work: str = "working") -> Iterator[Report]:
    """Yields a function that draws a bar for each kind of work, or feeds the ticker if stderr is no terminal."""
    if not stderr.is_terminal:
        ticker.set(work)
        yield _report_in_lines
        return
    ticker.stop()
    columns = (
        TextColumn("{task.description:>8}"),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[state]}"),
        TimeElapsedColumn(),
        TextColumn("[dim]{task.fields[note]}"),
    )
    with Progress(*columns, console=stderr, transient=True) as bars:
        tasks = {"": bars.add_task(escape(work), total=None, state="", note="")}  # moves until the first report

        def report(what: str, done: int, total: int, note: str) -> None:
            if "" in tasks:
                bars.remove_task(tasks.pop(""))
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total, state="", note="")
            if done == 0:
                bars.reset(tasks[what])
            bars.update(tasks[what], completed=done, total=total, state=f"{done}/{total}", note=escape(note))

        yield report
    ticker.start(work)


def _report_in_lines(what: str, done: int, total: int, note: str) -> None:
    """Writes a line for each window or session; of all else the ticker says from time to time how far it is."""
    ticker.update(" ".join(f"{what} {done}/{total} {note}".split()))
    if what in ("window", "session") and done < total:
        say(f"{what} {done + 1}/{total} {note}")


def count(counter: Counter[str]) -> str:
    """Returns `3 user, 2 tool`, the most frequent first."""
    return ", ".join(f"{n} {name}" for name, n in counter.most_common())
