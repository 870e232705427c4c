"""What all commands share: options, output and progress on stderr."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from unicodedata import category

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from holdfast.blocks.block import Kind
from holdfast.errors import BadOption

if TYPE_CHECKING:
    from holdfast.engine.local import LocalEngine
    from holdfast.methods.base import Progress as Report

Model = Annotated[str, typer.Option("--model", help="smollm2-135m, gemma3-270m, a local folder or a Hugging Face id.")]
Dtype = Annotated[str, typer.Option(help="float32, bfloat16 (faster where the processor has it) or float16.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, mps, …")]
Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        help="holdfast.toml with the models to ask. Default: $HOLDFAST_CONFIG, else of your Holdfast folder.",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]

WIDTH = 106  # columns of the widest table
stderr = Console(stderr=True)


def stdout() -> Console:
    """Wide enough for the tables when the output is not a terminal."""
    console = Console()
    return console if console.is_terminal and console.width >= WIDTH else Console(width=max(WIDTH, console.width))


def line(text: str) -> None:
    """A line of results. What comes from a session or a file is shown as it is, without its control characters."""
    sys.stdout.write("".join(c if _shows(c) else "\ufffd" for c in text) + "\n")


def _shows(character: str) -> bool:
    """Blanks of any script, and what joins letters or emoji, change nothing but what is said."""
    return character.isprintable() or character in "\n\t\u200c\u200d" or category(character) == "Zs"


def forgiving() -> None:
    """What the output's encoding does not have is written as an escape, from now on."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def emit(value: Any) -> None:
    """One JSON value on stdout."""
    unicode = (getattr(sys.stdout, "encoding", None) or "utf-8").lower().startswith("utf")
    json.dump(value, sys.stdout, indent=2, ensure_ascii=not unicode, default=str)
    sys.stdout.write("\n")


def say(text: str) -> None:
    """A note for the person at the terminal."""
    stderr.print(text, style="dim", markup=False, emoji=False, highlight=False, soft_wrap=True)


def engine(model: str, dtype: str, device: str) -> LocalEngine:
    """Load a model, saying so, with the library's own chatter off."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    with stderr.status(f"loading {escape(model)}"):
        from transformers.utils import logging

        from holdfast.compaction.compact import load
        from holdfast.model import bundled_models

        logging.disable_progress_bar()
        if model in bundled_models.BUNDLES:
            bundled_models.ensure(model, say)
        return load(model, dtype=dtype, device=device)


@contextmanager
def progress() -> Iterator[Report]:
    """A bar per kind of work, on stderr; plain lines where that is no terminal."""
    columns = (
        TextColumn("{task.description:>8}"),
        BarColumn(bar_width=24),
        TextColumn("{task.completed}/{task.total}"),
        TimeElapsedColumn(),
        TextColumn("[dim]{task.fields[note]}"),
    )
    with Progress(*columns, console=stderr, transient=True, disable=not stderr.is_terminal) as bars:
        tasks: dict[str, TaskID] = {}

        def report(what: str, done: int, total: int, note: str) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total, note="")
            if done == 0:
                bars.reset(tasks[what])
            bars.update(tasks[what], completed=done, total=total, note=escape(note))
            if not stderr.is_terminal and what in ("window", "session") and done < total:
                say(f"{what} {done + 1}/{total} {note}")

        yield report


def kinds(text: str) -> tuple[Kind, ...]:
    """Kinds of block from `KIND,KIND,…` or `none`. Raises BadOption."""
    names = [name.strip() for name in text.split(",") if name.strip() not in ("", "none")]
    for name in names:
        if name not in tuple(Kind):
            raise BadOption(f"--pin: no kind of block is called {name!r}; there are: {', '.join(Kind)}")
    return tuple(Kind(name) for name in names)


def checked_ratio(ratio: float) -> float:
    """A ratio that makes sense. Raises BadOption."""
    if not 1 <= ratio < float("inf"):
        raise BadOption(f"--ratio must be a number of at least 1, got {ratio}; 8 keeps an eighth of the slots")
    return ratio


def share(text: str, option: str = "--allow-over") -> float:
    """`10%` or `0.1` as a part of one. Raises BadOption."""
    try:
        return float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError as error:
        raise BadOption(f"{option} must be a share such as 10%, got {text!r}") from error
