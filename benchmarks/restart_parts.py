"""Parts of benchmarks/restart.py: windows cut from sessions, rows, and retained shares. Loads no model."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from holdfast.blocks.render import render
from holdfast.eval.metrics import Interval, ratio_interval
from holdfast.eval.probes import Probe
from holdfast.transcript.cuts import exchanges
from holdfast.transcript.turn import Role, Transcript, Turn

LEAST = 8
"""A middle is no shorter than such a part of the window."""


@dataclass(frozen=True)
class Window:
    """Turns of a session up to where the assistant spoke."""

    session: str
    turns: tuple[Turn, ...]
    action: Turn
    probes: tuple[Probe, ...] = ()


@dataclass(frozen=True)
class Row:
    """Results of one form of one window: log-probabilities in nats."""

    session: str
    keep: int
    ratio: float
    form: str
    action: float
    answers: list[float]
    bytes: int
    read: int
    """Tokens that went through the model for it, beyond the live session."""
    seconds: float


@dataclass(frozen=True)
class Share:
    """The share that a form retains over all windows."""

    value: float
    interval: Interval
    supplied: float
    """Nats of the full window over none, all windows together."""
    n: int


def shorten(turn: Turn, most: int, quotes: Sequence[str] = ()) -> Turn:
    """Returns the turn with every text cut to `most` characters: the first, or those around the first quote in it."""
    calls = tuple(replace(call, arguments=_arguments(call.arguments, most, quotes)) for call in turn.calls)
    return replace(turn, text=_cut(turn.text, most, quotes), reasoning=_cut(turn.reasoning, most, quotes), calls=calls)


def _arguments(text: str, most: int, quotes: Sequence[str]) -> str:
    try:
        values = json.loads(text)
    except ValueError:
        return _cut(text, most, quotes)
    if not isinstance(values, dict):
        return _cut(text, most, quotes)
    return json.dumps({k: _cut(v, most, quotes) if isinstance(v, str) else v for k, v in values.items()})


def _cut(text: str, most: int, quotes: Sequence[str]) -> str:
    if len(text) <= most:
        return text
    found = next(((at, len(q)) for q in quotes if (at := text.find(q)) >= 0), (0, most))
    first = max(0, min(found[0] + found[1] // 2 - most // 2, len(text) - most))
    return text[first : first + most]


def windows(
    name: str, transcript: Transcript, sizes: Sequence[int], size: int, keep: int, probes: Sequence[Probe], count: int
) -> list[Window]:
    """Returns the `count` windows of at most `size` tokens that hold most evidence in their middle, then those nearest
    to the session's; `sizes` are the turns'.
    """
    turns, units = transcript.turns, exchanges(transcript)
    head = next((at + 1 for at, turn in enumerate(turns) if turn.role is Role.USER), 1)
    found: list[tuple[int, float, Window]] = []
    for last in range(keep + 1, len(units)):
        stop = units[last][0]
        if turns[stop].role is not Role.ASSISTANT:
            continue
        room = size - sum(sizes[:head])
        start = next((a for a, _ in units if a >= head and sum(sizes[a:stop]) <= room), stop)
        recent = max(units[last - keep][0], start)
        if sum(sizes[start:recent]) < size // LEAST:
            continue
        inside = tuple(p for p in probes if any(p.evidence in said for t in turns[start:recent] for said in _says(t)))
        far = abs((start + stop) / 2 - len(turns) / 2)
        found.append((-len(inside), far, Window(name, (*turns[:head], *turns[start:stop]), turns[stop], inside)))
    return _apart(sorted(found, key=lambda x: x[:2]), count)


def _apart(found: Sequence[tuple[int, float, Window]], count: int) -> list[Window]:
    """Returns the first `count` windows that do not hold each other's next action, nor each other's evidence in their
    middle.
    """
    chosen: list[Window] = []
    for _, _, window in found:
        near = any(window.action in other.turns or other.action in window.turns for other in chosen)
        twice = any(probe in other.probes for other in chosen for probe in window.probes)
        if len(chosen) < count and not near and not twice:
            chosen.append(window)
    return chosen


def _says(turn: Turn) -> Iterator[str]:
    yield from (turn.text, *(call.arguments for call in turn.calls))


def count_tokens(transcript: Transcript, tokenizer: Any) -> list[int]:
    """Returns the tokens of every turn."""
    sizes = [0] * len(transcript.turns)
    for block in render(transcript, tokenizer).blocks:
        sizes[block.origin.turn] += len(block)
    return sizes


def share(rows: Sequence[Row], form: Sequence[Row], what: str, minus: Sequence[Row] = ()) -> Share:
    """Returns the share that `form` retains of what full supplies over none, over its windows; `minus` is another
    form's, pair by pair.
    """
    full = {r.session: getattr(r, what) for r in rows if r.form == "full"}
    none = {(r.session, r.keep): getattr(r, what) for r in rows if r.form == "none"}
    other = {r.session: getattr(r, what) for r in minus}
    pairs = [r for r in form if (r.session, r.keep) in none and r.session in full and (not minus or r.session in other)]
    top, bottom, clusters = [], [], []
    for at, r in enumerate(pairs):
        base = none[r.session, r.keep]
        given = np.atleast_1d(getattr(r, what)) - np.atleast_1d(other[r.session] if minus else base)
        top.append(given)
        bottom.append(np.atleast_1d(full[r.session]) - np.atleast_1d(base))
        clusters.append(np.full(len(given), at))
    if not pairs or not sum(map(len, top)):
        return Share(float("nan"), Interval(float("nan"), float("nan")), 0.0, 0)
    above, below = np.concatenate(top), np.concatenate(bottom)
    number = np.unique(np.concatenate(clusters), return_inverse=True)[1]
    value = float(above.sum() / below.sum()) if below.sum() > 0 else float("nan")
    return Share(value, ratio_interval(above, below, number), float(below.sum()), len(above))


def table(rows: Sequence[Row]) -> str:
    """Returns one line per keep, ratio and form, then the differences between in place and restart."""
    lines = [
        "| recent | ratio | form | next action | answers | KV bytes | tokens read | seconds |",
        "|--:|--:|---|--:|--:|--:|--:|--:|",
    ]
    cells = dict.fromkeys((r.keep, r.ratio, r.form) for r in rows if r.form not in ("full", "none"))
    by = {cell: [r for r in rows if (r.keep, r.ratio, r.form) == cell] for cell in cells}
    for (keep, ratio, form), own in sorted(by.items(), key=lambda x: x[0][:2]):
        mean = [np.mean([getattr(r, name) for r in own]) for name in ("bytes", "read", "seconds")]
        shares = " | ".join(format_share(share(rows, own, what)) for what in ("action", "answers"))
        size = f"{mean[0] / 1e6:.2f} MB | {mean[1]:,.0f} | {mean[2]:.2f}"
        lines.append(f"| {keep} | {f'{ratio:g}x' if ratio else ''} | {form} | {shares} | {size} |")
    lines += ["", "| recent | ratio | in place, less restart | next action | answers | nats of full over none | n |"]
    lines.append("|--:|--:|---|--:|--:|--:|--:|")
    for (keep, ratio, form), own in sorted(by.items(), key=lambda x: x[0][:2]):
        name = form.removesuffix(" in place")
        against = by.get((keep, ratio, f"{name} restart"))
        if name == form or not against:
            continue
        action, answers = (share(rows, own, what, against) for what in ("action", "answers"))
        counts = f"{action.supplied:.0f}, {answers.supplied:.0f} | {action.n}, {answers.n}"
        lines.append(
            f"| {keep} | {f'{ratio:g}x' if ratio else ''} | {name} | "
            f"{format_share(action)} | {format_share(answers)} | {counts} |"
        )
    return "\n".join(lines)


def format_share(found: Share) -> str:
    """Returns the per cent and its interval, as text."""
    if np.isnan(found.value):
        return "-"
    low, high = found.interval
    return f"{100 * found.value:.1f}" + ("" if np.isnan(low) else f" [{100 * low:.1f}, {100 * high:.1f}]")


def read_rows(path: Path) -> list[Row]:
    return [Row(**json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []


def has_session(path: Path, session: str) -> bool:
    return any(row.session == session for row in read_rows(path))


def append(path: Path, rows: Sequence[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.writelines(json.dumps(asdict(row)) + "\n" for row in rows)
