"""Describes a session and its changes as lines to read: what show, diff and expand print."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import unified_diff

from holdfast.text.file_log.log import Event, Origin
from holdfast.transcript.draft import turn_ranges, turn_size
from holdfast.transcript.token_estimate import estimate_tokens
from holdfast.transcript.turn import Turn


@dataclass(frozen=True)
class PrintedLine:
    """A line of a session as it is printed."""

    text: str
    at: int
    """0-based turn of the file."""
    line: int | None = None
    """0-based line of that turn's text; None for its heading, reasoning and calls."""


@dataclass(frozen=True)
class Fate:
    """The fate of one turn in a change."""

    turns: tuple[int, ...]
    """0-based raw turns that it stood for."""
    role: str
    fate: str
    """`verbatim`, `rewritten` or `dropped`."""
    by: str
    """The method that rewrote it."""
    tokens_before: int
    tokens: int
    """Of what stands in its place; where several turns became one, told at the first of them."""


def turn_label(number: int, turn: Turn) -> str:
    """Returns the name of a raw turn by its 1-based number."""
    return f"turn {number}, {turn.role.value}"


def turn_lines(turn: Turn) -> Iterator[tuple[str, int | None]]:
    """Yields every line of a turn, with its position in the turn's text (None for reasoning and calls)."""
    for line in turn.reasoning.split("\n") if turn.reasoning else ():
        yield f"(thinks) {line}", None
    for at, line in enumerate(turn.text.split("\n") if turn.text else ()):
        yield line, at
    for call in turn.calls:
        yield f"(calls) {call.name} {call.arguments}", None


def describe_session(turns: Sequence[Turn], origins: Sequence[Origin]) -> list[PrintedLine]:
    """Returns the lines of a session, each turn under a heading that says which raw turns it stands for."""
    lines = []
    for at, (turn, origin) in enumerate(zip(turns, origins, strict=True)):
        made = f", by {origin.made}" if origin.made else ""
        lines.append(PrintedLine(f"== {turn.role.value}: turn {turn_ranges(origin.turns) or 'none'}{made}", at))
        lines += [PrintedLine(text, at, line) for text, line in turn_lines(turn)]
    return lines


def turn_fates(event: Event, before: Sequence[Turn], origins: Sequence[Origin], after: Sequence[Turn]) -> list[Fate]:
    """Returns the fate of each turn of the file before the event; `origins` are those of these turns."""
    told: set[int] = set()
    found = []
    for turn, origin in zip(before, origins, strict=True):
        holds = [at for at, new in enumerate(event.origins) if new.turns and set(new.turns).issuperset(origin.turns)]
        same = next((at for at in holds if list(turn_lines(after[at])) == list(turn_lines(turn))), None)
        place = same if same is not None else next(iter(holds), None)
        fate = "dropped" if place is None else "rewritten" if same is None else "verbatim"
        by = event.origins[place].made if place is not None and same is None else ""
        size = 0 if place is None or place in told else turn_size(after[place], estimate_tokens)
        told.update(() if place is None else (place,))
        found.append(Fate(origin.turns, turn.role.value, fate, by, turn_size(turn, estimate_tokens), size))
    return found


def diff_lines(before: Sequence[Turn], after: Sequence[Turn], name: str) -> list[str]:
    """Returns a unified diff of every line of both sessions."""
    old, new = ([line for turn in turns for line in _plain(turn)] for turns in (before, after))
    return list(unified_diff(old, new, f"{name} before", f"{name} after", lineterm=""))


def _plain(turn: Turn) -> list[str]:
    return [f"== {turn.role.value}", *(text for text, _ in turn_lines(turn))]
